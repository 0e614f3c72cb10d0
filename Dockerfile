# pgflo with its embedded servers, as an unprivileged user. State lies in /var/lib/pgflo.
FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock requirements-runtime.lock ./
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
 && python3 -m venv /opt/pgflo && /opt/pgflo/bin/pip install --no-cache-dir --require-hashes -r requirements-runtime.lock
COPY Cargo.toml Cargo.lock pyproject.toml README.md LICENSE ./
COPY rust rust
COPY python python
RUN /build/bin/maturin build --release --locked --out /wheels \
 && /opt/pgflo/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 ca-certificates && rm -rf /var/lib/apt/lists/* \
 && useradd --system --create-home --home-dir /var/lib/pgflo pgflo
COPY --from=build /opt/pgflo /opt/pgflo
ENV PATH=/opt/pgflo/bin:$PATH XDG_STATE_HOME=/var/lib/pgflo
USER pgflo
VOLUME /var/lib/pgflo
ENTRYPOINT ["pgflo"]
CMD ["--help"]
