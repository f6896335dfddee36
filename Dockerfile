# mirror-publisher and mirror-consumer:
#
#     docker build --tag mirrorfeed .
#     docker run --rm mirrorfeed mirror-consumer --help
#
# and mirror-puller, with git and ssh:
#
#     docker build --target puller --tag mirrorfeed-puller .

ARG PYTHON=python:3.13.15-slim-trixie

FROM ${PYTHON} AS build
WORKDIR /build
# The finished image needs neither pip nor what builds our wheel: these are in another environment.
RUN python -m venv /opt/tools && python -m venv --without-pip /opt/mirrorfeed
# The dependencies in a layer of their own: after a change of our code only our code is installed. Nothing is
# installed whose hash is not one of those that `make hashes` wrote down.
COPY packaging/requirements.txt packaging/requirements-build.txt packaging/
RUN /opt/tools/bin/pip install --no-cache-dir --require-hashes --requirement packaging/requirements-build.txt \
    && /opt/tools/bin/pip --python /opt/mirrorfeed install --no-cache-dir \
        --require-hashes --requirement packaging/requirements.txt
# mirrorfeed/ holds links to its neighbours; COPY keeps links, so the neighbours are copied too.
COPY pyproject.toml schema.sql ./
COPY packaging/package-index.md packaging/
COPY mirrorfeed/ mirrorfeed/
COPY contract/ contract/
COPY amqp/ amqp/
COPY publisher/ publisher/
COPY puller/ puller/
COPY consumer/ consumer/
RUN /opt/tools/bin/pip wheel --no-build-isolation --no-deps --wheel-dir dist . \
    && /opt/tools/bin/pip --python /opt/mirrorfeed install --no-cache-dir --no-deps dist/*.whl

FROM ${PYTHON} AS mirrorfeed
# A number, so that Kubernetes can tell it is not root. A spool goes into its home folder.
RUN useradd --uid 10001 --home-dir /var/spool/mirrorfeed mirrorfeed \
    && install --directory --owner mirrorfeed --group mirrorfeed --mode 700 /var/spool/mirrorfeed
COPY --from=build /opt/mirrorfeed /opt/mirrorfeed
ENV PATH=/opt/mirrorfeed/bin:$PATH
USER 10001
WORKDIR /var/spool/mirrorfeed
CMD ["mirror-consumer", "--help"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mirrorfeed" \
      org.opencontainers.image.description="Many hosts report what they did; one database shows the truth." \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}"

FROM mirrorfeed AS puller
USER root
RUN apt-get update && apt-get install --yes --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner mirrorfeed --group mirrorfeed /srv/mirrors
USER 10001
CMD ["mirror-puller", "--help"]

# What is built if nobody names a target.
FROM mirrorfeed
