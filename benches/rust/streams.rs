//! Streams as a walsender sends them, of the two shapes that matter most, always the same bytes.
//!
//! Downstream: the benches. Invariant: commit LSNs ascend; every table is described before its first row.

/// First byte of the write-ahead log that the streams start at.
pub const START_LSN: u64 = 0x0100_0000;

const INT4: u32 = 23;
const INT8: u32 = 20;
const BPCHAR: u32 = 1042;
const TIMESTAMP: u32 = 1114;
const JSONB: u32 = 3802;

/// A block of frames that grows, transaction by transaction.
pub struct Stream {
    block: Vec<u8>,
    lsn: u64,
}

impl Stream {
    fn new() -> Self {
        Self {
            block: Vec::new(),
            lsn: START_LSN,
        }
    }

    fn send(&mut self, lsn: u64, message: &[u8]) {
        let length = u32::try_from(25 + message.len()).unwrap_or(u32::MAX);
        self.block.extend(length.to_be_bytes());
        self.block.push(b'w');
        for number in [lsn, lsn, 0] {
            self.block.extend(number.to_be_bytes());
        }
        self.block.extend(message);
    }

    fn describe(&mut self, oid: u32, name: &str, columns: &[(&str, u32)]) {
        let mut message = vec![b'R'];
        message.extend(oid.to_be_bytes());
        message.extend(b"public\0");
        message.extend(name.as_bytes());
        message.extend(b"\0d");
        message.extend(u16::try_from(columns.len()).unwrap_or(0).to_be_bytes());
        for (number, (name, type_oid)) in columns.iter().enumerate() {
            message.push(u8::from(number == 0));
            message.extend(name.as_bytes());
            message.push(0);
            message.extend(type_oid.to_be_bytes());
            message.extend((-1_i32).to_be_bytes());
        }
        self.send(0, &message);
    }

    fn transaction(&mut self, changes: &[Vec<u8>]) {
        let commit_lsn = self.lsn + 400;
        let mut begin = vec![b'B'];
        begin.extend(commit_lsn.to_be_bytes());
        begin.extend(815_000_000_000_000_u64.to_be_bytes());
        begin.extend(700_u32.to_be_bytes());
        self.send(self.lsn, &begin);
        for change in changes {
            self.send(self.lsn, change);
        }
        let mut commit = vec![b'C', 0];
        for number in [commit_lsn, commit_lsn + 48, 815_000_000_000_000] {
            commit.extend(number.to_be_bytes());
        }
        self.lsn = commit_lsn + 48;
        self.send(self.lsn, &commit);
    }
}

fn row(kind: u8, oid: u32, cells: &[Option<String>]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(oid.to_be_bytes());
    message.push(b'N');
    message.extend(u16::try_from(cells.len()).unwrap_or(0).to_be_bytes());
    for cell in cells {
        match cell {
            None => message.push(b'n'),
            Some(text) => {
                message.push(b't');
                message.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
                message.extend(text.as_bytes());
            }
        }
    }
    message
}

/// Transactions of pgbench: three updates of a row each, one insert.
pub fn pgbench(transactions: u32) -> Vec<u8> {
    let mut stream = Stream::new();
    let balance = [
        ("id", INT4),
        ("bid", INT4),
        ("balance", INT4),
        ("filler", BPCHAR),
    ];
    let history = [
        ("tid", INT4),
        ("bid", INT4),
        ("aid", INT4),
        ("delta", INT4),
        ("mtime", TIMESTAMP),
        ("filler", BPCHAR),
    ];
    stream.describe(16_401, "pgbench_accounts", &balance);
    stream.describe(16_402, "pgbench_tellers", &balance);
    stream.describe(16_403, "pgbench_branches", &balance);
    stream.describe(16_404, "pgbench_history", &history);
    for number in 0..transactions {
        let text = |value: u32| Some(value.to_string());
        let filler = Some(" ".repeat(84));
        let account = (number * 7919) % 100_000;
        let update = |oid, id, filler: &Option<String>| {
            row(
                b'U',
                oid,
                &[text(id), text(1), text(number), filler.clone()],
            )
        };
        let mtime = Some("2026-11-05 10:00:00.123456".to_owned());
        stream.transaction(&[
            update(16_401, account, &filler),
            update(16_402, number % 10, &None),
            update(16_403, 1, &None),
            row(
                b'I',
                16_404,
                &[
                    text(number % 10),
                    text(1),
                    text(account),
                    text(number),
                    mtime,
                    None,
                ],
            ),
        ]);
    }
    stream.block
}

/// Transactions of many inserts into one table.
pub fn inserts(transactions: u32, rows: u32) -> Vec<u8> {
    let mut stream = Stream::new();
    let event = [
        ("id", INT8),
        ("account", INT8),
        ("at", TIMESTAMP),
        ("payload", JSONB),
    ];
    stream.describe(16_405, "event", &event);
    for number in 0..transactions {
        let insert = |row_no: u32| {
            let id = number * rows + row_no;
            row(
                b'I',
                16_405,
                &[
                    Some(id.to_string()),
                    Some((id % 1000).to_string()),
                    Some("2026-11-05 10:00:00.123456".to_owned()),
                    Some(format!(
                        r#"{{"kind": "click", "page": "/item/{id}", "ms": {row_no}}}"#
                    )),
                ],
            )
        };
        stream.transaction(&(0..rows).map(insert).collect::<Vec<_>>());
    }
    stream.block
}
