# mirror-publisher and mirror-consumer:
#
#     docker build --tag mirrorfeed .
#     docker run --rm mirrorfeed mirror-consumer --help

FROM python:3.13-slim AS build
WORKDIR /build
# Without pip, which the finished image does not need: the pip of the build image installs into it.
RUN python -m venv --without-pip /opt/mirrorfeed
# mirrorfeed/ holds links to its neighbours; COPY keeps links, so the neighbours are copied too.
COPY constraints.txt pyproject.toml schema.sql ./
COPY packaging/package-index.md packaging/
COPY mirrorfeed/ mirrorfeed/
COPY contract/ contract/
COPY amqp/ amqp/
COPY publisher/ publisher/
COPY consumer/ consumer/
RUN pip --python /opt/mirrorfeed install --no-cache-dir --constraint constraints.txt '.[authserver,consumer]'

FROM python:3.13-slim
COPY --from=build /opt/mirrorfeed /opt/mirrorfeed
ENV PATH=/opt/mirrorfeed/bin:$PATH
# A number, so that Kubernetes can tell it is not root. A spool goes into its home folder.
RUN useradd --uid 10001 --create-home --home-dir /var/spool/mirrorfeed mirrorfeed
USER 10001
WORKDIR /var/spool/mirrorfeed
CMD ["mirror-consumer", "--help"]
