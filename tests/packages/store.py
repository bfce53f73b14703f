"""An S3 store that checks who asks: moto's server, with one user who may read and write.

It prints where it is and the user's key as a line of JSON, and then does what it is told on its
standard input: `put BUCKET OBJECT FILE`, `list BUCKET`. It ends with its standard input.
"""

import json
import sys

import boto3
from moto import settings
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = "http://%s:%d" % (host, port)


def client(service, key, secret):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


iam = client("iam", "first", "first")
iam.create_user(UserName="bugle")
allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam.put_user_policy(UserName="bugle", PolicyName="all", PolicyDocument=json.dumps(allowed))
key = iam.create_access_key(UserName="bugle")["AccessKey"]
s3 = client("s3", key["AccessKeyId"], key["SecretAccessKey"])
for bucket in ("code", "uploads-of-bugle"):
    s3.create_bucket(Bucket=bucket)
# From now on nobody is let in without a key.
settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0

print(json.dumps({"port": port, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
for line in sys.stdin:
    command, *words = line.split()
    if command == "put":
        bucket, name, path = words
        with open(path, "rb") as file:
            s3.put_object(Bucket=bucket, Key=name, Body=file.read())
        print("done", flush=True)
    elif command == "list":
        found = s3.list_objects_v2(Bucket=words[0]).get("Contents", [])
        print(json.dumps([object["Key"] for object in found]), flush=True)
server.stop()
