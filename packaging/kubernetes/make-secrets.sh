#!/bin/sh
# Prints all Secrets that packaging/kubernetes names, with a random password for each user:
#
#     sh packaging/kubernetes/make-secrets.sh | kubectl create --namespace mirrorfeed --filename -
#
# `create` refuses to overwrite one.
set -eu

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

worker=$(random) operator=$(random) reader=$(random) web=$(random)
broker_setup=$(random) broker_worker=$(random) broker_puller=$(random) broker_scaler=$(random)

cat <<END
apiVersion: v1
kind: Secret
metadata:
  name: broker-users
stringData:
  users.json: |
    {"vhosts": [{"name": "/"}], "users": [
      {"name": "puller", "password": "$broker_puller", "tags": ""},
      {"name": "worker", "password": "$broker_worker", "tags": ""},
      {"name": "setup", "password": "$broker_setup", "tags": "monitoring"},
      {"name": "scaler", "password": "$broker_scaler", "tags": "monitoring"}
    ], "permissions": [
      {"user": "scaler", "vhost": "/", "configure": "^$", "write": "^$", "read": "^$"}
    ]}
---
apiVersion: v1
kind: Secret
metadata:
  name: roles
stringData:
  worker: $worker
  operator: $operator
  reader: $reader
---
apiVersion: v1
kind: Secret
metadata:
  name: setup
stringData:
  amqp-url: amqp://setup:$broker_setup@broker:5672/%2F
---
apiVersion: v1
kind: Secret
metadata:
  name: worker
stringData:
  amqp-url: amqp://worker:$broker_worker@broker:5672/%2F
  database-url: postgresql://worker:$worker@database-rw:5432/mirrorfeed?sslmode=require
---
apiVersion: v1
kind: Secret
metadata:
  name: operator
stringData:
  amqp-url: amqp://setup:$broker_setup@broker:5672/%2F
  database-url: postgresql://operator:$operator@database-rw:5432/mirrorfeed?sslmode=require
---
apiVersion: v1
kind: Secret
metadata:
  name: reader
stringData:
  amqp-url: amqp://worker:$broker_worker@broker:5672/%2F
  database-url: postgresql://reader:$reader@database-rw:5432/mirrorfeed?sslmode=require
  web-password: $web
---
apiVersion: v1
kind: Secret
metadata:
  name: puller
stringData:
  amqp-url: amqp://puller:$broker_puller@broker:5672/%2F
---
apiVersion: v1
kind: Secret
metadata:
  name: scaler
stringData:
  host: http://scaler:$broker_scaler@broker.mirrorfeed:15672/
END
