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
from offline_kit.local_kaggle.store import Service
from offline_kit.local_kaggle.wire import RpcCall, ServiceRefusal, rpc

_TOKEN_SECONDS = 12 * 3600


class AccountService(Service):
    """The accounts of one local Kaggle."""

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
        secrets_given = {"key": key, "token": token, "refresh": refresh}
        hashes = {kind: _hash_secret(secret) for kind, secret in secrets_given.items()}
        self.store.write_record({"name": name, **hashes}, "accounts", name)

    def user_of(self, authorization: str) -> str:
        """Return who calls, "" if no credentials came; refuses wrong ones with 401."""
        kind, _, secret = authorization.partition(" ")
        if not secret:
            return ""
        user = self._find_by_token(secret) if kind.lower() == "bearer" else self._find_by_key(secret)
        if not user:
            raise ServiceRefusal(401, "Unauthenticated")
        return user

    @rpc("api.v1.DiagnosticsService/Hello")
    def _greet(self, call: RpcCall) -> Mapping[str, Any]:
        return {"userName": call.user}

    @rpc("security.OAuthService/IntrospectToken")
    def _introspect_token(self, call: RpcCall) -> Mapping[str, Any]:
        user = self._find_by_token(call.text("token"))
        if not user:
            return {"active": False}  # an unknown token is no error
        facts = {"username": user, "userId": 7, "scope": "resources.admin:*", "exp": 9999999999}
        return {"active": True, **facts}

    @rpc("users.AccountService/GenerateAccessToken")
    def _generate_token(self, call: RpcCall) -> Mapping[str, Any]:
        refresh_hash = _hash_secret(call.text("refreshToken"))
        with self.store.lock:
            for record in self.store.iter_records("accounts"):
                if refresh_hash and hmac.compare_digest(record.get("refresh", ""), refresh_hash):
                    token, now = secrets.token_urlsafe(32), self.store.current_time()
                    # Tokens that were given before work as long as they were to.
                    given = {word: until for word, until in record.get("given", {}).items() if until > now}
                    given[_hash_secret(token)] = now + _TOKEN_SECONDS
                    self.store.write_record({**record, "given": given}, "accounts", record["name"])
                    facts = {"expiresIn": _TOKEN_SECONDS, "userName": record["name"], "userId": 7}
                    return {"token": token, **facts}
        raise ServiceRefusal(401, "The refresh token is not valid")

    def _find_by_token(self, token: str) -> str:
        token_hash = _hash_secret(token)
        for record in self.store.iter_records("accounts"):
            is_own = token and hmac.compare_digest(record["token"], token_hash)  # in constant time
            if is_own or record.get("given", {}).get(token_hash, 0.0) > self.store.current_time():
                return str(record["name"])
        return ""

    def _find_by_key(self, secret: str) -> str:
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
