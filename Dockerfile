# The scheduler's image. Two stages: dependencies and wheel, then what runs.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/tutti
COPY requirements.lock ./
RUN /opt/tutti/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY queues queues
COPY scheduler scheduler
RUN /opt/tutti/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
COPY --from=build /opt/tutti /opt/tutti
ENV PATH=/opt/tutti/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["tutti"]
CMD ["run"]
