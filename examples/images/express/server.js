// SPDX-License-Identifier: Apache-2.0
// An event function: the platform sends POST /init once and POST /invoke for each event. The context
// is in the headers, the event is the body.
const express = require("express");

const app = express();
app.use(express.json({ limit: "6mb" }));

app.post("/init", (request, response) => {
  console.log("initialized as", request.get("X-CFF-Func-Name"));
  response.send("Hello init\n");
});

app.post("/invoke", (request, response) => {
  console.log("event", JSON.stringify(request.body));
  response.send("Hello invoke\n");
});

// A server that is the first process of a container ends only on signals that it handles.
process.on("SIGTERM", () => process.exit(0));

app.listen(8000, () => console.log("listening on port 8000"));
