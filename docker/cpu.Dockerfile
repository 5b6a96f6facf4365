# slimgate on a CPU. Build from the repository's root:
#   docker build -f docker/cpu.Dockerfile -t slimgate .
FROM python:3.11-slim-bookworm

# No cache is kept and no root is needed to run.
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    SLIMGATE_CACHE=/cache

WORKDIR /opt/slimgate
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN python -m pip install --require-hashes --requirement requirements.lock
COPY profiles profiles
COPY exporters exporters
COPY pipeline pipeline
RUN python -m pip install --no-deps --no-build-isolation . \
    && useradd --create-home --uid 1000 slimgate \
    && install --directory --owner slimgate /cache /work

USER 1000
WORKDIR /work
VOLUME ["/cache", "/work"]
ENTRYPOINT ["slimgate"]
CMD ["--help"]
