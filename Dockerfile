# An image for processors: `docker build -t medical-sam2 .`, `docker run -v $PWD:/data medical-sam2 segment-volumes prompts.csv -o results`
FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /opt/medsam2
ENV PATH=/opt/medsam2/bin:$PATH
# torch first, from the index of builds without CUDA: the usual one is gigabytes larger. A mirror: --build-arg TORCH_INDEX=URL
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.10"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ".[dicom,ray]"

FROM python:3.11-slim
COPY --from=build /opt/medsam2 /opt/medsam2
ENV PATH=/opt/medsam2/bin:$PATH
RUN useradd --create-home outline
USER outline
WORKDIR /data
ENTRYPOINT ["medsam2"]
