# One image for every part: it runs `radnode up` unless told `receive`, `core` or `work`.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
# The steps of scripts/setup, less --editable.
RUN python -m venv /opt/radnode
COPY pyproject.toml requirements.lock README.md ./
COPY radnode ./radnode
RUN /opt/radnode/bin/python -m pip install --no-cache-dir --constraint requirements.lock .

FROM python:3.11-slim-bookworm
# The volume takes its owner from this folder when it is first mounted.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/radnode --shell /usr/sbin/nologin radnode \
 && install -d -o radnode -g radnode -m 0750 /var/lib/radnode \
 && install -d /etc/radnode/apps
COPY --from=build /opt/radnode /opt/radnode
ENV PATH=/opt/radnode/bin:$PATH \
    RADNODE_HOME=/var/lib/radnode \
    RADNODE_ROUTING=/etc/radnode/routing.yaml \
    RADNODE_APPS=/etc/radnode/apps \
    RADNODE_PORT=11112 \
    RADNODE_HTTP_HOST=0.0.0.0 \
    RADNODE_HTTP_PORT=8104
USER 10001:10001
WORKDIR /var/lib/radnode
VOLUME /var/lib/radnode
EXPOSE 11112 8104
# http.client and not urllib, which would ask a hospital's proxy for 127.0.0.1.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['RADNODE_HTTP_PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["radnode"]
CMD ["up"]
