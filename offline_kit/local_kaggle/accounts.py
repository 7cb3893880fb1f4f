"""Who may call: accounts with a legacy key and tokens, of which only hashes are kept."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any

from offline_kit.core.errors import UsageError
from offline_kit.local_kaggle.store import Store
from offline_kit.local_kaggle.wire import Call, Refusal, Rpc

_HOURS = 12 * 3600


class Accounts:
    """The accounts of one local Kaggle."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, name: str, *, key: str = "", token: str = "", refresh: str = "") -> None:
        """Make an account, or give one that exists this key and these tokens.

        For the token `refresh` a client gets tokens that work for some hours.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,49}", name):
            raise UsageError(f"'{name}' is no account name", hint="a-z, 0-9 and -, two characters or more")
        record = {"name": name, "key": _hash(key), "token": _hash(token), "refresh": _hash(refresh)}
        self.store.write(record, "accounts", name)

    def user_of(self, headers: Mapping[str, str]) -> str:
        """Return who calls, "" where no credentials came; refuses wrong ones with 401."""
        kind, _, secret = (headers.get("Authorization") or "").partition(" ")
        if not secret:
            return ""
        user = self._by_token(secret) if kind.lower() == "bearer" else self._by_key(secret)
        if not user:
            raise Refusal(401, "Unauthenticated")
        return user

    def rpcs(self) -> dict[str, Rpc]:
        """Return the calls about accounts."""
        return {
            "security.OAuthService/IntrospectToken": self.introspect,
            "users.AccountService/GenerateAccessToken": self.generate,
            "api.v1.DiagnosticsService/Hello": lambda call: {"userName": call.user},
        }

    def introspect(self, call: Call) -> Mapping[str, Any]:
        """Tell whose token it is; an unknown one is inactive, not an error."""
        user = self._by_token(call.text("token"))
        if not user:
            return {"active": False}
        return {
            "active": True,
            "username": user,
            "userId": 7,
            "scope": "resources.admin:*",
            "exp": 9999999999,
        }

    def generate(self, call: Call) -> Mapping[str, Any]:
        """Give a token that works for `_HOURS`; what was given before works as long as it was to."""
        told = _hash(call.text("refreshToken"))
        with self.store.lock:
            for record in self.store.records("accounts"):
                if told and hmac.compare_digest(record.get("refresh", ""), told):
                    token, now = secrets.token_urlsafe(32), self.store.now()
                    given = {each: until for each, until in record.get("given", {}).items() if until > now}
                    given[_hash(token)] = now + _HOURS
                    self.store.write({**record, "given": given}, "accounts", record["name"])
                    return {"token": token, "expiresIn": _HOURS, "userName": record["name"], "userId": 7}
        raise Refusal(401, "The refresh token is not valid")

    def _by_token(self, token: str) -> str:
        for record in self.store.records("accounts"):
            if token and hmac.compare_digest(record["token"], _hash(token)):
                return str(record["name"])
            if record.get("given", {}).get(_hash(token), 0.0) > self.store.now():
                return str(record["name"])
        return ""

    def _by_key(self, secret: str) -> str:
        try:
            name, _, key = base64.b64decode(secret, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ""
        if not key or not re.fullmatch(r"[A-Za-z0-9-]+", name):
            return ""
        record = self.store.read("accounts", name)
        return str(record["name"]) if record and hmac.compare_digest(record["key"], _hash(key)) else ""


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest() if secret else ""
