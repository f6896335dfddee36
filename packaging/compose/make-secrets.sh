#!/bin/sh
# Makes a random password for each user, and the files that packaging/compose/secrets.yaml names, in the folder
# secrets/ beside compose.yaml. It never overwrites anything: to change all passwords, remove the folder first.
set -eu
cd "$(dirname "$0")/../.."

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

owner=$(random) worker=$(random) operator=$(random) reader=$(random)
broker_setup=$(random) broker_worker=$(random) broker_puller=$(random)
web=$(random)

# Nobody else may enter the folder. The files can be read by everybody, because Docker gives them to a container
# as they are, and there another user reads them.
mkdir -m 700 secrets
cd secrets
umask 022
printf %s "$owner" > owner-password
echo "postgresql://worker:$worker@postgres:5432/mirrorfeed" > worker-database-url
echo "postgresql://operator:$operator@postgres:5432/mirrorfeed" > operator-database-url
echo "postgresql://reader:$reader@postgres:5432/mirrorfeed" > reader-database-url
echo "$web" > web-password
echo "amqp://setup:$broker_setup@rabbitmq:5672/%2F" > setup-amqp-url
echo "amqp://worker:$broker_worker@rabbitmq:5672/%2F" > worker-amqp-url
echo "amqp://puller:$broker_puller@rabbitmq:5672/%2F" > puller-amqp-url
cat > rabbitmq-users.json <<END
{"vhosts": [{"name": "/"}], "users": [
  {"name": "puller", "password": "$broker_puller", "tags": ""},
  {"name": "worker", "password": "$broker_worker", "tags": ""},
  {"name": "setup", "password": "$broker_setup", "tags": "monitoring"}
]}
END
cat > passwords.sql <<END
ALTER ROLE mirrorfeed PASSWORD '$owner';
ALTER ROLE worker PASSWORD '$worker';
ALTER ROLE operator PASSWORD '$operator';
ALTER ROLE reader PASSWORD '$reader';
END
