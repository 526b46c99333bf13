"""A judge that finds every answer wrong, for checks that need one and measure something else: prints its
address and serves until it is killed."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SAID = json.dumps({"extracted_answer": "x", "score": 0})


class Judge(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": SAID}
        reply = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
server.serve_forever()
