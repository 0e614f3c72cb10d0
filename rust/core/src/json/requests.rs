//! Lines into requests: so many at a time, in lanes that keep the order of each key.
//!
//! Upstream: marked lines. Downstream: the webhook sink, which runs the lanes side by side. Invariant:
//! every line is in one request; requests of a lane, and a request without one and all others, are in the
//! order of their lines.

use xxhash_rust::xxh3::xxh3_64;

use super::lines::{ID_START, Lines, Mark};

/// What goes out together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// None: everything before it must be done, and it before everything after.
    pub lane: Option<u64>,
    /// The same whenever the same lines are sent together.
    pub id: Vec<u8>,
    /// The only line, or an array of them.
    pub body: Vec<u8>,
    /// Lines in it.
    pub count: usize,
}

/// Cuts lines into requests of `batch` lines at most, in so many lanes. A batch of 1 is the line itself, any
/// other an array.
#[must_use]
pub fn requests(lines: &Lines, batch: usize, lane_count: u64) -> Vec<Request> {
    let lane_count = lane_count.max(1);
    let mut cutter = Cutter {
        lines,
        batch: batch.max(1),
        made: Vec::new(),
        waiting: (0..lane_count).map(|_| Vec::new()).collect(),
    };
    let mut start = 0;
    for mark in &lines.marks {
        let line = (start, *mark);
        start = mark.end;
        if lane_count == 1 {
            cutter.put(0, line);
        } else if let Some(order) = mark.order {
            cutter.put(order % lane_count, line);
        } else {
            cutter.flush();
            cutter.make(None, &[line]);
        }
    }
    cutter.flush();
    cutter.made
}

/// Where a line starts, and its mark.
type Line = (usize, Mark);

struct Cutter<'a> {
    lines: &'a Lines,
    batch: usize,
    made: Vec<Request>,
    waiting: Vec<Vec<Line>>,
}

impl Cutter<'_> {
    fn put(&mut self, lane: u64, marked: Line) {
        let number = usize::try_from(lane).unwrap_or_default();
        let Some(waiting) = self.waiting.get_mut(number) else {
            return;
        };
        waiting.push(marked);
        if waiting.len() >= self.batch {
            let full = std::mem::take(waiting);
            self.make(Some(lane), &full);
        }
    }

    fn flush(&mut self) {
        for (lane, waiting) in (0..).zip(std::mem::take(&mut self.waiting)) {
            self.waiting.push(Vec::new());
            if !waiting.is_empty() {
                self.make(Some(lane), &waiting);
            }
        }
    }

    fn make(&mut self, lane: Option<u64>, lines: &[Line]) {
        let data = &self.lines.data;
        let Some((first, mark)) = lines.first() else {
            return;
        };
        let id_at = first + ID_START.len();
        let mut id = data
            .get(id_at..id_at + mark.id_bytes)
            .unwrap_or_default()
            .to_vec();
        let text = |line: &Line| data.get(line.0..line.1.end.saturating_sub(1));
        let body = if self.batch == 1 {
            text(&(*first, *mark)).unwrap_or_default().to_vec()
        } else {
            let bytes = lines
                .iter()
                .map(|(start, mark)| mark.end - start)
                .sum::<usize>();
            let mut body = Vec::with_capacity(bytes + 2);
            for (number, line) in lines.iter().enumerate() {
                body.push(if number == 0 { b'[' } else { b',' });
                body.extend_from_slice(text(line).unwrap_or_default());
            }
            body.push(b']');
            // The same first line may come with others after a restart.
            id.extend_from_slice(format!(":{:016x}", xxh3_64(&body)).as_bytes());
            body
        };
        self.made.push(Request {
            lane,
            id,
            body,
            count: lines.len(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines `{"id":"N"}` with these orders.
    fn lines(orders: &[Option<u64>]) -> Lines {
        let mut lines = Lines::marked();
        for (number, order) in orders.iter().enumerate() {
            let line = format!("{{\"id\":\"{number}\"}}\n");
            lines.data.extend_from_slice(line.as_bytes());
            lines.end_line(number.to_string().len(), *order);
        }
        lines
    }

    fn made(orders: &[Option<u64>], batch: usize, lane_count: u64) -> Vec<(Option<u64>, String)> {
        let numbers = |body: Vec<u8>| {
            let text = String::from_utf8(body).unwrap();
            text.chars().filter(|c| !"{}\"id:".contains(*c)).collect()
        };
        let requests = requests(&lines(orders), batch, lane_count).into_iter();
        requests
            .map(|request| (request.lane, numbers(request.body)))
            .collect()
    }

    #[test]
    fn one_lane_takes_lines_as_they_come() {
        let orders = [Some(1), None, Some(2)];
        let batches = [(Some(0), "[0,1]".to_owned()), (Some(0), "[2]".to_owned())];
        assert_eq!(made(&orders, 2, 1), batches);
        assert_eq!(made(&orders, 1, 1).len(), 3);
    }

    #[test]
    fn lines_of_one_order_share_a_lane_and_one_without_stands_alone() {
        let orders = [Some(2), Some(3), Some(4), None, Some(3)];
        let expected = [
            (Some(0), "[0,2]"),
            (Some(1), "[1]"),
            (None, "[3]"),
            (Some(1), "[4]"),
        ];
        let expected = expected.map(|(lane, body)| (lane, body.to_owned()));
        assert_eq!(made(&orders, 2, 2), expected);
    }

    #[test]
    fn an_id_names_exactly_the_lines_that_go_together() {
        let id = |orders: &[Option<u64>], batch| requests(&lines(orders), batch, 1).remove(0).id;
        assert_eq!(id(&[None], 1), b"0");
        assert_eq!(id(&[None, None], 5), id(&[None, None], 2));
        assert_ne!(id(&[None], 5), id(&[None, None], 5));
    }
}
