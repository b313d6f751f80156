# One small image with the one binary: `eventrail api`, `dispatcher`, `migrate`, …

FROM rust:1.95-slim-bookworm AS build
# For the allocator, which is written in C.
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /eventrail
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/eventrail/target \
    cargo build --release --locked --bin eventrail \
    && cp target/release/eventrail /usr/local/bin/eventrail \
    && strip /usr/local/bin/eventrail \
    && mkdir /keys

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="EventRail" org.opencontainers.image.licenses="MIT"
COPY --from=build /eventrail/LICENSE /LICENSE
COPY --from=build /usr/local/bin/eventrail /usr/local/bin/eventrail
# A volume mounted here takes over the owner, so that `eventrail migrate` can make the secrets' key in it.
COPY --from=build --chown=nonroot:nonroot /keys /keys
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/eventrail"]
CMD ["--help"]
