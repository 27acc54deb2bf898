# An image for `ringlet submit --engine kubernetes`:
#   python -m build --wheel && docker build -t registry.example/ringlet:0.1 .
# Scripts and data can lie in the image (COPY below) or on the claim that pods see as /data.
FROM python:3.12-slim
COPY dist/ringlet-*.whl /tmp/
RUN pip install --no-cache-dir /tmp/ringlet-*.whl && rm /tmp/ringlet-*.whl
WORKDIR /work
CMD ["ringlet", "--help"]
