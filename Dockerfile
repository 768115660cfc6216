# A server for one or more models, on a CPU:
#   docker build -t sequence-encoder .
#   docker run -p 8080:8080 -v models:/models sequence-encoder sentence-transformers/all-MiniLM-L6-v2
FROM python:3.12-slim AS build
WORKDIR /source
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1
# Without the libraries for GPUs, which are ten times as large. For a GPU, build with TORCH_INDEX=https://pypi.org/simple.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install torch --index-url "$TORCH_INDEX"
COPY . .
RUN pip install '.[serve]'

FROM python:3.12-slim
COPY --from=build /venv /venv
# Models from the Hub are kept in /models, which the server may write. It may write nothing else.
ENV PATH=/venv/bin:$PATH HF_HOME=/models PYTHONUNBUFFERED=1
RUN useradd --create-home server && mkdir /models && chown server /models
USER server
WORKDIR /home/server
VOLUME /models
EXPOSE 8080
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health')"]
ENTRYPOINT ["sequence-encoder", "serve", "--host", "0.0.0.0", "--port", "8080"]
