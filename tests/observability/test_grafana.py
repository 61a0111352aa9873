import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ray_tl.errors import InvalidInput
from ray_tl.observability.dashboards import search_dashboard
from ray_tl.observability.grafana import Grafana, GrafanaFailed, differences, push

TOKEN = "glsa_right"


class StandIn(ThreadingHTTPServer):
    """Answers as Grafana does to the few calls that a push makes; `writes` are the calls that changed something."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders, self.dashboards, self.annotations, self.writes = {}, {}, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def get(self, path):
        kind, uid = path.rsplit("/", 1)
        found = {"/api/folders": self.folders, "/api/dashboards/uid": self.dashboards}[kind].get(uid)
        return (200, found) if found else (404, {"message": "not found"})

    def post(self, path, body):
        self.writes.append(path)
        return {
            "/api/folders": self._post_folder,
            "/api/dashboards/db": self._post_dashboard,
            "/api/annotations": self._post_annotation,
        }[path](body)

    def _post_folder(self, body):
        self.folders[body["uid"]] = body
        return 200, body

    def _post_dashboard(self, body):
        uid, before = body["dashboard"]["uid"], self.dashboards.get(body["dashboard"]["uid"])
        if body["folderUid"] not in self.folders or (before and not body["overwrite"]):
            return 412, {"message": "precondition failed"}
        version = before["dashboard"]["version"] + 1 if before else 1
        stored = {**body["dashboard"], "id": 7, "version": version, "schemaVersion": 41, "liveNow": False}
        self.dashboards[uid] = {"dashboard": stored, "meta": {"folderUid": body["folderUid"]}}
        return 200, {"uid": uid, "status": "success", "version": version}

    def _post_annotation(self, body):
        self.annotations.append(body)
        return 200, {"id": 1, "message": "Annotation added"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(lambda: self.server.get(self.path))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(lambda: self.server.post(self.path, body))

    def _answer(self, act):
        welcome = (f"Bearer {TOKEN}", "Basic YWRtaW46c2VjcmV0")  # admin:secret
        status, body = act() if self.headers["Authorization"] in welcome else (401, {"message": "Invalid API key"})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def grafana():
    with StandIn() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def html_page():
    with ThreadingHTTPServer(("127.0.0.1", 0), HtmlHandler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class HtmlHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>some other service</html>")

    def log_message(self, *_):
        pass


def _verbs(actions):
    return [action.verb for action in actions]


def test_first_push_creates_folder_and_dashboard(grafana):
    assert _verbs(push(grafana.url, TOKEN)) == ["created", "created"]
    stored = grafana.dashboards["ray-tl-search"]
    assert stored["meta"] == {"folderUid": "ray-tl"}
    assert stored["dashboard"]["panels"] == search_dashboard()["panels"]


def test_second_push_changes_nothing_though_grafana_added_fields_of_its_own(grafana):
    push(grafana.url, TOKEN)
    grafana.writes.clear()
    assert _verbs(push(grafana.url, TOKEN)) == ["unchanged", "unchanged"]
    assert grafana.writes == []


def test_change_made_by_hand_is_overwritten_and_named(grafana):
    push(grafana.url, TOKEN)
    grafana.dashboards["ray-tl-search"]["dashboard"]["panels"][0] = {"title": "mine"}
    actions = push(grafana.url, TOKEN)
    assert _verbs(actions) == ["unchanged", "updated"]
    assert "dashboard.panels[0].title: 'mine' -> 'Best score'" in str(actions[1])
    assert _verbs(push(grafana.url, TOKEN)) == ["unchanged", "unchanged"]


def test_dashboard_moved_to_another_folder_is_moved_back(grafana):
    push(grafana.url, TOKEN)
    grafana.dashboards["ray-tl-search"]["meta"]["folderUid"] = "elsewhere"
    assert push(grafana.url, TOKEN)[1].differences == ("meta.folderUid: 'elsewhere' -> 'ray-tl'",)
    assert grafana.dashboards["ray-tl-search"]["meta"]["folderUid"] == "ray-tl"


def test_dry_run_says_what_is_due_and_writes_nothing(grafana):
    assert _verbs(push(grafana.url, TOKEN, dry_run=True)) == ["created", "created"]
    assert grafana.writes == []


def test_check_fails_on_drift_and_passes_after_a_push(grafana):
    with pytest.raises(GrafanaFailed, match="differs; push to mend it"):
        push(grafana.url, TOKEN, check=True)
    push(grafana.url, TOKEN)
    assert _verbs(push(grafana.url, TOKEN, check=True)) == ["unchanged", "unchanged"]


def test_check_writes_nothing(grafana):
    with pytest.raises(GrafanaFailed):
        push(grafana.url, TOKEN, check=True)
    assert grafana.writes == []


def test_user_and_password_do_as_well_as_a_token(grafana):
    assert _verbs(push(grafana.url, ("admin", "secret"))) == ["created", "created"]


def test_wrong_token_is_one_clear_error_that_does_not_show_the_token(grafana):
    with pytest.raises(GrafanaFailed, match=r"refuses these credentials \(401\)") as caught:
        push(grafana.url, "glsa_wrong")
    assert "glsa_wrong" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_grafana_that_does_not_answer_is_one_clear_error(grafana):
    grafana.shutdown()
    grafana.server_close()
    with pytest.raises(GrafanaFailed, match="does not answer"):
        push(grafana.url, TOKEN)


def test_other_service_at_the_address_is_one_clear_error(html_page):
    with pytest.raises(GrafanaFailed, match="not as Grafana does"):
        push(html_page, TOKEN)


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://localhost", "", "http://localhost:port"])
def test_address_that_is_none_is_refused(url):
    with pytest.raises(InvalidInput, match="http://localhost:3000"):
        push(url, TOKEN)


def test_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(InvalidInput, match="apart from it") as caught:
        push("http://admin:secret@localhost:3000", TOKEN)
    assert "secret" not in str(caught.value)


def test_path_prefix_of_the_address_is_kept(grafana):
    grafana.get = lambda path: (200, {"title": path})
    assert Grafana(f"{grafana.url}/grafana/", TOKEN)._get("/folders/a") == {"title": "/grafana/api/folders/a"}


def test_event_becomes_an_annotation_that_the_dashboard_shows(grafana):
    Grafana(grafana.url, TOKEN).annotate("new best: trial 12", ["digits"])
    assert grafana.annotations == [{"text": "new best: trial 12", "tags": ["ray-tl", "digits"]}]
    shown = search_dashboard()["annotations"]["list"][0]["target"]["tags"]
    assert set(shown) <= set(grafana.annotations[0]["tags"])


def test_connection_refuses_to_be_pickled(grafana):
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(Grafana(grafana.url, TOKEN))


def test_lists_of_other_lengths_differ_as_a_whole():
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == ["a: [1] -> [1, 2]"]
