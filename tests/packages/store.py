"""An S3 store that checks who asks: moto's server, with one user who may read and write.

With the files of a certificate and its key as arguments it speaks TLS.

It prints where it is and the user's key as a line of JSON, and then does what it is told on its
standard input: `put BUCKET OBJECT FILE`, `list BUCKET`, `parts BUCKET`. It ends with its standard input.
"""

import json
import logging
import sys
import threading

import boto3
from moto import settings
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
certificate = tuple(sys.argv[1:3]) or None
app = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=certificate)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.port
url = "%s://127.0.0.1:%d" % ("https" if certificate else "http", port)


def client(service, key, secret):
    return boto3.client(
        service,
        endpoint_url=url,
        verify=certificate[0] if certificate else None,
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
    elif command == "parts":
        # The digest of an object that came in parts tells how many they were.
        found = s3.list_objects_v2(Bucket=words[0]).get("Contents", [])
        print(json.dumps([object["ETag"].strip('"').partition("-")[2] for object in found]), flush=True)
server.shutdown()
