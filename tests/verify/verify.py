"""Reads one JSON line {"secret", "headers", "body_base64"} and prints "verified", or the library's refusal."""

import base64
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

delivery = json.loads(sys.stdin.readline())
try:
    Webhook(delivery["secret"]).verify(base64.b64decode(delivery["body_base64"]), delivery["headers"])
    print("verified")
except WebhookVerificationError as error:
    print(f"WebhookVerificationError: {error}")
    sys.exit(1)
