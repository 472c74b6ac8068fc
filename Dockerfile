# syntax=docker/dockerfile:1

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=""
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/tidemark ./cmd/tidemark \
 && mkdir /out/data

# The binary is static, and needs neither shell nor libraries; but identity
# providers, webhooks and collectors of traces are reached over HTTPS, and somebody
# must vouch for them.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/tidemark /tidemark
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
VOLUME /data
ENV TIDEMARK_STORE=/data/tidemark.db \
    TIDEMARK_ADDR=:8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["/tidemark", "health"]
# SIGTERM drains: give it more than the 10 s that requests may take to finish.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/tidemark"]
CMD ["serve"]
