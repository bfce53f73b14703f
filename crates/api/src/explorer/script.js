"use strict";

// Builds the page from the document. Everything that comes from outside is set as text, never as
// markup.

const element = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node[key] = value;
  node.append(...children);
  return node;
};

const resolve = (spec, schema) => {
  let found = schema;
  while (found && found.$ref) {
    found = found.$ref.split("/").slice(1).reduce((at, key) => at && at[key], spec);
  }
  return found || {};
};

const typeOf = (spec, schema) => {
  const plain = resolve(spec, schema);
  const union = plain.oneOf || plain.anyOf;
  if (union) {
    return union.map((part) => typeOf(spec, part)).filter((name) => name !== "null").join(" or ");
  }
  const names = [].concat(plain.type || "any").filter((name) => name !== "null");
  if (names[0] === "array") return `list of ${typeOf(spec, plain.items)}`;
  return names.join(" or ");
};

const fields = (spec, schema) => {
  const { properties = {} } = resolve(spec, schema);
  const rows = Object.entries(properties).map(([name, property]) => {
    const text = property.description || resolve(spec, property).description || "";
    return element("tr", {},
      element("td", {}, element("code", { textContent: name })),
      element("td", { textContent: typeOf(spec, property) }),
      element("td", { textContent: text }));
  });
  return rows.length ? element("table", {}, ...rows) : "";
};

const bodySchema = (holder) => {
  const content = Object.values((holder && holder.content) || {})[0];
  return content && content.schema;
};

const trial = (path, method, parameters, schema) => {
  const inputs = parameters.map((parameter) => {
    const input = element("input", { placeholder: parameter.required ? "required" : "optional" });
    const label = element("label", {}, `${parameter.name} `, input);
    return { parameter, input, label };
  });
  const body = schema && method !== "get" ? element("textarea", { value: "{}" }) : null;
  const output = element("pre", { hidden: true });
  const send = element("button", { type: "button", textContent: "Send" });
  send.addEventListener("click", async () => {
    let target = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const { parameter, input } of inputs) {
      if (!input.value) continue;
      if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      if (parameter.in === "query") query.set(parameter.name, input.value);
      if (parameter.in === "header") headers[parameter.name] = input.value;
    }
    if (body) headers["Content-Type"] = "application/json";
    output.hidden = false;
    output.textContent = "…";
    try {
      const url = query.size ? `${target}?${query}` : target;
      const options = { method: method.toUpperCase(), headers, body: body ? body.value : undefined };
      const answer = await fetch(url, options);
      const text = await answer.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it is */ }
      output.textContent = `${answer.status} ${answer.statusText}\n\n${shown}`;
    } catch (error) {
      output.textContent = `No answer: ${error}`;
    }
  });
  const rows = inputs.map(({ label }) => element("div", {}, label));
  return element("div", {}, ...rows, ...(body ? [body] : []), send, output);
};

const operation = (spec, path, method, about) => {
  const parameters = about.parameters || [];
  const schema = bodySchema(about.requestBody);
  const answers = Object.entries(about.responses || {}).map(([status, response]) =>
    element("tr", {},
      element("td", {}, element("code", { textContent: status })),
      element("td", { textContent: response.description || "" }),
      element("td", {}, fields(spec, bodySchema(response)))));
  const title = element("summary", {},
    element("span", { className: `method ${method}`, textContent: method.toUpperCase() }),
    element("code", { textContent: path }), " ",
    element("span", { className: "muted", textContent: about.summary || "" }));
  const parts = [title];
  if (about.description) parts.push(element("p", { textContent: about.description }));
  if (schema) parts.push(element("h4", { textContent: "Body" }), fields(spec, schema));
  parts.push(element("h4", { textContent: "Answers" }), element("table", {}, ...answers));
  parts.push(element("h4", { textContent: "Try it" }), trial(path, method, parameters, schema));
  return element("details", {}, ...parts);
};

const show = (spec) => {
  const byTag = new Map();
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [method, about] of Object.entries(methods)) {
      const tag = (about.tags || ["other"])[0];
      byTag.set(tag, (byTag.get(tag) || []).concat([operation(spec, path, method, about)]));
    }
  }
  const main = document.getElementById("operations");
  for (const [tag, operations] of byTag) {
    main.append(element("section", {}, element("h2", { textContent: tag }), ...operations));
  }
  const { title, version, description } = spec.info;
  document.getElementById("about").textContent = `${title} ${version}. ${description || ""}`;
};

document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const node of document.querySelectorAll("details")) {
    const text = node.querySelector("summary").textContent.toLowerCase();
    node.hidden = !text.includes(wanted);
  }
});

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then(show)
  .catch((error) => { document.getElementById("about").textContent = `Cannot read the document: ${error}`; });
