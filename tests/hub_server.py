"""A Hugging Face Hub on this machine, as far as the client needs it for models: files, commits, large files by LFS."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer(ThreadingHTTPServer):
    """Models by name: their commits, each a mapping of file names to contents."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models, self.large, self.requests = {}, {}, []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name, files):
        """Add a commit; return its hash."""
        history = self.models.setdefault(name, [])
        files = {**(history[-1][1] if history else {}), **files}
        oid = hashlib.sha1(f"{len(history)}{sorted(files)}".encode()).hexdigest()
        history.append((oid, files))
        return oid

    def find(self, name, revision):
        history = self.models.get(name, [])
        return next((commit for commit in history[::-1] if revision in ("main", commit[0])), None)


@contextmanager
def hub_server():
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def reply(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        self.server.requests.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not match:
            return self.reply(404)
        name, revision, path = match.groups()
        if name not in self.server.models:
            return self.reply(401, X_Error_Code="RepoNotFound")
        commit = self.server.find(name, revision)
        if commit is None:
            return self.reply(404, X_Error_Code="RevisionNotFound")
        if path not in commit[1]:
            return self.reply(404, X_Error_Code="EntryNotFound")
        content = commit[1][path]
        return self.reply(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit[0])

    do_HEAD = do_GET

    def do_PUT(self):
        self.server.large[self.path.rpartition("/")[2]] = self.body()
        self.reply(200)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        self.server.requests.append(f"{self.command} {self.path}")
        body, server = self.body(), self.server
        if self.path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values['organization']}/{values['name']}"
            exists = name in server.models
            server.models.setdefault(name, [])
            url = {"url": f"{server.address}/{name}", "name": name, "private": values.get("private")}
            self.reply(409 if exists else 200, {**url, "error": "exists"} if exists else url)
        elif self.path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "shouldIgnore": False, "oid": None}
                | {"uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]
            self.reply(200, {"files": files, "commitOid": None})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{server.address}/put/{item['oid']}", "header": {}}}}
                for item in json.loads(body)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            files = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = server.large[value["oid"]]
            oid = server.commit(match[1], files)
            self.reply(200, {"commitUrl": f"{server.address}/{match[1]}/commit/{oid}", "commitOid": oid})
        else:
            self.reply(404)
