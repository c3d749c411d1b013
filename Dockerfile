# `brigade serve` on the CPU:
#   docker build -t brigade .
#   docker run --rm -p 8000:8000 brigade                                       the embedded model
#   docker run --rm -p 8000:8000 -v /path/to/models:/models:ro brigade /models/mine --api-key "$KEY"

# 1. The package with its kernels, which are compiled for every path (AVX2, AVX-512, AMX, portable) and chosen at run time.
FROM python:3.12-slim-bookworm AS kernels
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The compiler of this Debian, whichever it has: the kernels ask it which instructions it knows.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md ./
COPY csrc csrc
COPY brigade brigade
# Without a compiler a wheel is built all the same, which would compute with the slow backend: so look for the kernels in it.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m zipfile --list /wheels/*.whl | grep 'backends/cpu/_kernels'

# 2. The package and what it needs, without a compiler. PyTorch is the build for CPUs alone.
FROM python:3.12-slim-bookworm
RUN --mount=type=bind,from=kernels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu /wheels/*.whl
RUN useradd --create-home --uid 10001 brigade
USER 10001
WORKDIR /home/brigade
EXPOSE 8000
# Without TLS; the engine is asked whether it steps. Loading a large model may take minutes.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# SIGTERM, which `docker stop` sends, lets running streams end: give it time with `docker stop --time 600`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["brigade", "serve", "--host", "0.0.0.0"]
