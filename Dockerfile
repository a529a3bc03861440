# The toolkit in a container, for CPUs or (DEVICE=cuda) for NVIDIA GPUs too.
#
#   docker build -t pix2seq .
#   docker run --rm -v "$PWD/results:/app/results" pix2seq
#
#   docker build -t pix2seq:cuda --build-arg DEVICE=cuda .
#   docker run --rm --gpus all --shm-size 4g -v /data/coco:/data:ro -v "$PWD/runs:/app/runs" pix2seq:cuda \
#     python train/train_multi_task.py --data-root /data
#
#   docker build -t pix2seq:demo --build-arg EXTRAS=demo .
#   docker run --rm -p 127.0.0.1:7860:7860 pix2seq:demo python infer/app.py --host 0.0.0.0
#
# Folders that are mounted to be written to must be writable for the user 1000 (or build with --build-arg UID="$(id -u)").
FROM python:3.12-slim

ARG DEVICE=cpu
ARG UID=1000

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --no-log-init --uid "$UID" pix2seq \
    && install --directory --owner=pix2seq /app /app/results /app/runs /app/data

USER $UID
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# PyTorch first: it is large, and changes of our files leave this layer as it is. Both packages come from one index.
# hadolint ignore=DL3013
RUN case "$DEVICE" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index=https://pypi.org/simple ;; \
        *) echo "DEVICE expects cpu or cuda, got $DEVICE" >&2; exit 2 ;; \
    esac \
    && python -m venv .venv \
    && .venv/bin/pip install torch torchvision --index-url "$index"

COPY --chown=pix2seq . .
ARG EXTRAS
RUN make .venv/.requirements \
    && if [ -n "$EXTRAS" ]; then .venv/bin/pip install -e ".[$EXTRAS]"; fi

CMD ["make", "demo"]
