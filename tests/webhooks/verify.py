"""Has the published library of Standard Webhooks verify requests, each as of the time it was signed at."""

import datetime
import json
import sys

import standardwebhooks.webhooks as library


class Then(datetime.datetime):
    """A clock that stands at the request's own time."""

    at = 0

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(cls.at, tz)


library.datetime = Then
verified, refused = 0, []
with open(sys.argv[1], encoding="utf-8") as requests:
    for line in requests:
        request = json.loads(line)
        Then.at = int(request["headers"]["webhook-timestamp"])
        try:
            library.Webhook(request["secret"]).verify(request["body"], request["headers"])
            verified += 1
        except Exception as error:  # whatever it is, it is a refusal
            refused.append(f"{request['headers']['webhook-id']}: {error!r}")
# One that is not ours must not pass, or nothing above says anything.
request["body"] += " "
try:
    library.Webhook(request["secret"]).verify(request["body"], request["headers"])
    refused.append("a body that was changed was accepted")
except library.WebhookVerificationError:
    pass
print(f"{verified} verified, {len(refused)} refused", *refused[:5], sep="\n")
sys.exit(1 if refused or not verified else 0)
