# Two images: the scheduler's (the last, and so the default), and the node plugin's with --target node-plugin.
FROM python:3.13-slim AS source
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY queues queues
COPY scheduler scheduler
COPY dra_driver dra_driver

FROM source AS build-node-plugin
RUN python -m venv /opt/tutti
COPY requirements-node.lock ./
RUN /opt/tutti/bin/pip install --no-cache-dir --require-hashes -r requirements-node.lock
RUN /opt/tutti/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim AS node-plugin
COPY --from=build-node-plugin /opt/tutti /opt/tutti
ENV PATH=/opt/tutti/bin:$PATH PYTHONUNBUFFERED=1
# The kubelet's sockets, device nodes and NVML's administration are root's.
USER 0:0
ENTRYPOINT ["tutti-dra-driver"]
CMD ["run"]

FROM source AS build
RUN python -m venv /opt/tutti
COPY requirements.lock ./
RUN /opt/tutti/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
RUN /opt/tutti/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
COPY --from=build /opt/tutti /opt/tutti
ENV PATH=/opt/tutti/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["tutti"]
CMD ["run"]
