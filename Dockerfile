# reconcile in a slim image, without build tools and without root.
#
#   docker build -t reconcile .
#   docker run --rm --env-file .env reconcile run
#   docker run -d --env-file .env -v "$PWD/cron.yaml:/app/cron.yaml:ro" -v reports:/app/reports reconcile

FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE cron.yaml ./
COPY sql sql
COPY man man
COPY reconcile reconcile
RUN python -m venv /opt/reconcile \
    && /opt/reconcile/bin/pip install --no-cache-dir -c constraints.txt . \
    && /opt/reconcile/bin/python -m compileall -q /opt/reconcile

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --create-home reconcile \
    && install -d -o reconcile /app/reports
COPY --from=build /opt/reconcile /opt/reconcile
ENV PATH=/opt/reconcile/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RECONCILE_METRICS_ADDRESS=0.0.0.0:9464
WORKDIR /app
COPY cron.yaml /app/cron.yaml
USER 10001
EXPOSE 9464
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["reconcile"]
CMD ["schedule"]
