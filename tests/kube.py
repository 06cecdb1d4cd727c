"""What tests do to a real cluster: kubectl and helm as processes, and plain requests with anybody's token."""

import http.client
import json
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes

QUESTLINE = "/apis/questline.dev/v1alpha1"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An API server's answer."""

    status: int
    body: Json

    @property
    def message(self) -> str:
        """The Status's message, "" where the body is an object."""
        text: str = self.body.get("message", "")
        return text

    @property
    def ok(self) -> bool:
        """Whether the request was done."""
        return self.status < 300


class Kube:
    """A cluster, as the one whom the kubeconfig names."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        settings: Any = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]
            str(kubeconfig), client_configuration=settings
        )
        server = urlsplit(settings.host)
        self._host, self._port = server.hostname or "", server.port or 443
        self._admin_headers = {item["key"]: item["value"] for item in settings.auth_settings().values()}
        self._admin_tls, self._plain_tls = _tls(settings), _tls(settings)
        if settings.cert_file:
            self._admin_tls.load_cert_chain(settings.cert_file, settings.key_file)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl; its output, or with ``check=False`` that of a failure as well.

        Raises:
            AssertionError: it failed and ``check`` is set; holds what it said.
        """
        return _run(["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments], stdin=stdin, check=check)

    def helm(self, *arguments: str, check: bool = True) -> str:
        """Run helm, as ``kubectl``."""
        return _run(["helm", "--kubeconfig", str(self.kubeconfig), *arguments], check=check)

    def exists(self, what: str, *, namespace: str) -> bool:
        """Whether there is such an object, named as ``deployment/x``."""
        return bool(self.kubectl("get", what, "-n", namespace, "--ignore-not-found", "-o", "name").strip())

    def new_namespace(self, prefix: str = "test-") -> str:
        """A new namespace's name, once its ServiceAccount `default` is there, which every pod needs."""
        created = self.request("POST", "/api/v1/namespaces", {"metadata": {"generateName": prefix}})
        assert created.ok, created.message
        name: str = created.body["metadata"]["name"]
        self.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")
        return name

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """One request, as cluster admin or with ``token`` and nothing else."""
        tls = self._admin_tls if token is None else self._plain_tls
        headers = self._admin_headers if token is None else {"Authorization": f"Bearer {token}"}
        connection = http.client.HTTPSConnection(self._host, self._port, context=tls, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {**headers, "Content-Type": content_type})
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()))
        finally:
            connection.close()

    def create(self, namespace: str, kind: str, name: str, spec: Json, *, token: str | None = None) -> Answer:
        """POST one of Questline's objects."""
        body = {"apiVersion": "questline.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        return self.request("POST", f"{QUESTLINE}/namespaces/{namespace}/quest{kind.lower()}s", body, token=token)

    def job(self, namespace: str, name: str) -> Json:
        """A Job as it is."""
        answer = self.request("GET", f"{QUESTLINE}/namespaces/{namespace}/questjobs/{name}")
        assert answer.ok, answer.message
        return answer.body

    def patch_job(
        self,
        namespace: str,
        name: str,
        patch: Any,
        *,
        subresource: str = "",
        token: str | None = None,
        content_type: str | None = None,
    ) -> Answer:
        """Patch a Job: a list is a JSON Patch, a dictionary a merge patch."""
        path = f"{QUESTLINE}/namespaces/{namespace}/questjobs/{name}"
        kind = content_type or (JSON_PATCH if isinstance(patch, list) else MERGE_PATCH)
        return self.request("PATCH", f"{path}/{subresource}".rstrip("/"), patch, token=token, content_type=kind)

    def token(self, namespace: str, account: str, *, pod: Json | None = None) -> str:
        """A token of the ServiceAccount, bound to the pod where one is given, as the kubelet asks for it."""
        spec: Json = {"expirationSeconds": 3600}
        if pod is not None:
            meta = pod["metadata"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        answer = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": spec})
        assert answer.ok, answer.message
        token: str = answer.body["status"]["token"]
        return token

    def account(self, namespace: str, name: str, *roles: str) -> str:
        """A new ServiceAccount with these ClusterRoles in its namespace; its name."""
        made = [self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})]
        for role in roles:
            binding = {
                "metadata": {"name": f"{name}-{role}"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            }
            path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
            made.append(self.request("POST", path, binding))
        for answer in made:
            assert answer.ok, answer.message
        if roles:
            self.await_rights(namespace, self.token(namespace, name))
        return name

    def await_rights(self, namespace: str, token: str) -> None:
        """Return once the API server's authorizer, which learns of bindings by a watch, grants Questline's to them."""
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        patience = time.monotonic() + 30
        while True:
            review = self.request("POST", path, {"spec": {"namespace": namespace}}, token=token)
            assert review.ok, review.message
            rules = review.body["status"]["resourceRules"]
            if any("questline.dev" in rule["apiGroups"] for rule in rules):
                return
            assert time.monotonic() < patience, f"no role of Questline's took effect in {namespace}: {rules}"
            time.sleep(0.02)


def _tls(settings: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _run(command: list[str], *, stdin: str | None = None, check: bool) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=300)
    said = done.stdout + (done.stderr if done.returncode else "")
    assert not check or done.returncode == 0, f"{' '.join(command)}: {said}"
    return said
