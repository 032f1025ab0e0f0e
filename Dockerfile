# Two images of one wheel. The wheel is built first (`python -m build --wheel`), so that what runs is what is released:
#   docker build --target cpu -t steer-or-prompt:cpu .
#   docker build --target gpu -t steer-or-prompt:gpu .     # vLLM's own image, more than 10 GB

FROM python:3.11-slim AS cpu
ARG TORCH=2.13.0
# All that is written at run time lies under /cache: the rest of an image is read-only under Apptainer, and its user is not
# the one who built it.
ENV BENCH_CACHE=/cache/bench BENCH_DATA=/cache/data HF_HOME=/cache/hf MPLCONFIGDIR=/cache/matplotlib \
    PYTHONNOUSERSITE=1
COPY constraints.txt dist/*.whl /dist/
RUN pip install --no-cache-dir uv && uv pip install --system --no-cache --torch-backend cpu "torch==${TORCH}" \
    && pip install --no-cache-dir --constraint /dist/constraints.txt "$(echo /dist/*.whl)[openai]" \
    && mkdir --mode=1777 /cache /work
VOLUME /cache
WORKDIR /work
CMD ["bench", "--help"]

FROM vllm/vllm-openai:v0.32.0 AS gpu
ENV BENCH_CACHE=/cache/bench BENCH_DATA=/cache/data HF_HOME=/cache/hf MPLCONFIGDIR=/cache/matplotlib \
    TRITON_CACHE_DIR=/cache/triton TORCHINDUCTOR_CACHE_DIR=/cache/inductor VLLM_CACHE_ROOT=/cache/vllm \
    VLLM_NO_USAGE_STATS=1 PYTHONNOUSERSITE=1
COPY dist/*.whl /dist/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# What the image has stays as it is: another torch would not fit its vLLM.
RUN uv pip freeze --system | grep -E '^(torch|torchvision|torchaudio|vllm|transformers|numpy)==' > /dist/constraints.txt \
    && uv pip install --system --no-cache --constraint /dist/constraints.txt "$(echo /dist/*.whl)[openai]" \
    && mkdir --mode=1777 /cache /work
VOLUME /cache
WORKDIR /work
ENTRYPOINT []
CMD ["bench", "--help"]
