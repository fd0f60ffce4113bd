# CPU:   docker build --tag dtlp .
# CUDA:  docker build --tag dtlp --build-arg TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130" .
# Run:   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" dtlp segment my_bundle scans out
#        with GPUs: docker run --gpus all --shm-size 8g ...
# Not built where this project is developed, which has no Docker.
FROM python:3.11-slim

ARG TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

COPY . /src
# hadolint ignore=DL3013,DL3042
RUN pip install --no-cache-dir ${TORCH} \
    && pip install --no-cache-dir --constraint /src/requirements-dev.txt "/src[dicom,export]" \
    && rm -rf /src \
    && useradd --create-home --uid 1000 dtlp

USER 1000
WORKDIR /work
# whoever runs it under another number has no home of his own
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["dtlp"]
CMD ["--help"]
