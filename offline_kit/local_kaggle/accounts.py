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
from offline_kit.local_kaggle.store import RecordStore
from offline_kit.local_kaggle.wire import Rpc, RpcCall, ServiceRefusal

_HOURS = 12 * 3600


class AccountService:
    """The accounts of one local Kaggle."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store

    def add_account(self, name: str, *, key: str = "", token: str = "", refresh: str = "") -> None:
        """Make an account, or give one that exists this key and these tokens.

        For the token `refresh` a client gets tokens that work for some hours.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,49}", name):
            raise UsageError(
                f"'{name}' is no account name",
                code="account-name-invalid",
                hint="a-z, 0-9 and -, two characters or more",
            )
        record = {
            "name": name,
            "key": _hash_secret(key),
            "token": _hash_secret(token),
            "refresh": _hash_secret(refresh),
        }
        self.store.write_record(record, "accounts", name)

    def user_of(self, headers: Mapping[str, str]) -> str:
        """Return who calls, "" where no credentials came; refuses wrong ones with 401."""
        kind, _, secret = (headers.get("Authorization") or "").partition(" ")
        if not secret:
            return ""
        user = self._by_token(secret) if kind.lower() == "bearer" else self._by_key(secret)
        if not user:
            raise ServiceRefusal(401, "Unauthenticated")
        return user

    def list_rpcs(self) -> dict[str, Rpc]:
        """Return the calls about accounts."""
        return {
            "security.OAuthService/IntrospectToken": self.introspect_token,
            "users.AccountService/GenerateAccessToken": self.generate_token,
            "api.v1.DiagnosticsService/Hello": lambda call: {"userName": call.user},
        }

    def introspect_token(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell whose token it is; an unknown one is inactive, not an error."""
        user = self._by_token(call.text_field("token"))
        if not user:
            return {"active": False}
        return {
            "active": True,
            "username": user,
            "userId": 7,
            "scope": "resources.admin:*",
            "exp": 9999999999,
        }

    def generate_token(self, call: RpcCall) -> Mapping[str, Any]:
        """Give a token that works for `_HOURS`; what was given before works as long as it was to."""
        refresh_hash = _hash_secret(call.text_field("refreshToken"))
        with self.store.lock:
            for record in self.store.iter_records("accounts"):
                if refresh_hash and hmac.compare_digest(record.get("refresh", ""), refresh_hash):
                    token, issued = secrets.token_urlsafe(32), self.store.current_time()
                    valid_tokens = {
                        token_hash: until
                        for token_hash, until in record.get("given", {}).items()
                        if until > issued
                    }
                    valid_tokens[_hash_secret(token)] = issued + _HOURS
                    self.store.write_record({**record, "given": valid_tokens}, "accounts", record["name"])
                    return {"token": token, "expiresIn": _HOURS, "userName": record["name"], "userId": 7}
        raise ServiceRefusal(401, "The refresh token is not valid")

    def _by_token(self, token: str) -> str:
        for record in self.store.iter_records("accounts"):
            if token and hmac.compare_digest(record["token"], _hash_secret(token)):
                return str(record["name"])
            if record.get("given", {}).get(_hash_secret(token), 0.0) > self.store.current_time():
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
        return str(record["name"]) if record and hmac.compare_digest(record["key"], _hash_secret(key)) else ""


def _hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest() if secret else ""
