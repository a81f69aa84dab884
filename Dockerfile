# latentcast serve: CPU, no GPU stack. The model is mounted, or ships with the package:
#   docker build -t latentcast .
#   docker run --rm --read-only --tmpfs /tmp -e LATENTCAST_TOKEN -p 8000:8000 -v $PWD/run:/model:ro latentcast
#   docker run ... latentcast latentcast/conv-ecg-tiny
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /venv \
 && grep '^torch==' constraints.txt > torch.txt \
 && /venv/bin/pip install --no-cache-dir -r torch.txt --index-url https://download.pytorch.org/whl/cpu \
 && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[ecg,plot,serve]'

FROM python:3.12-slim
# Uploads are files in /dev/shm while they are read: memory, and never a layer of the image.
COPY --from=build /venv /venv
RUN useradd --system --no-create-home serve
USER serve
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
# Beyond this container: the server refuses to start without LATENTCAST_TOKEN.
ENTRYPOINT ["latentcast", "serve", "--host", "0.0.0.0"]
CMD ["/model"]
