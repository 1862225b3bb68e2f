// Follows one run. The server's events are lines of the run, in order, each with its number; what the agent and its model
// wrote goes into the page as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const KEPT_LOG = 1000, KEPT_SAMPLES = 120, SHOWN_CHARS = 4000, BRIEF_CHARS = 160;

function el(tag, classes, text) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

// ---- words and figures
const cut = (text, most) => (text.length > most ? text.slice(0, most) + "…" : text);
const count = (number) => (number >= 10000 ? (number / 1000).toFixed(1) + "k" : String(number));
const dollars = (usd) => "$" + usd.toFixed(usd < 0.1 ? 4 : 2);
const percent = (share) => Math.round(share * 100) + " %";
function bytes(number) {
  const gib = number / 2 ** 30;
  return gib >= 1 ? gib.toFixed(2) + " GiB" : Math.round(number / 2 ** 20) + " MiB";
}
function duration(ms) {
  if (ms < 1000) return Math.max(0, Math.round(ms)) + " ms";
  const seconds = ms / 1000;
  if (seconds < 60) return seconds.toFixed(seconds < 10 ? 1 : 0) + " s";
  const minutes = Math.floor(seconds / 60), rest = Math.floor(seconds % 60);
  if (minutes < 60) return minutes + " min " + String(rest).padStart(2, "0") + " s";
  return Math.floor(minutes / 60) + " h " + String(minutes % 60).padStart(2, "0") + " min";
}
const shown = (value) => cut(typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "", SHOWN_CHARS);
function brief(input) {
  if (input === null || typeof input !== "object") return "";
  const told = input.command ?? input.file_path ?? input.path ?? input.pattern ?? input.url ?? input.description ?? input.query;
  return cut(typeof told === "string" ? told : Object.keys(input).length ? JSON.stringify(input) : "", BRIEF_CHARS).replace(/\s+/g, " ");
}

// ---- talking to the server
async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body ?? {}),
  });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const told = await answer.json().catch(() => null);
  throw new Error(told?.error ?? `the server answered ${answer.status}`);
}
function problem(place, error) {
  place.hidden = !error;
  place.textContent = error ? `${error.message ?? error}` : "";
}

// ---- the first page
function start() {
  $("start").hidden = false;
  const form = $("start-form"), prompt = $("prompt"), told = form.querySelector(".problem"), button = form.querySelector("button");
  prompt.focus();
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    problem(told, null);
    try {
      const { run_id } = await post("/runs", { prompt: prompt.value });
      remember(run_id, prompt.value);
      location.hash = run_id;
      location.reload();
    } catch (error) {
      problem(told, error);
      button.disabled = false;
    }
  });
}
// What the user said is not in the run's lines; this tab remembers it.
function remembered(run) {
  try { return JSON.parse(sessionStorage.getItem(run)) ?? []; } catch { return []; }
}
function remember(run, text) {
  sessionStorage.setItem(run, JSON.stringify([...remembered(run), text]));
}

// ---- one run
function follow(run) {
  const base = `/runs/${encodeURIComponent(run)}`;
  const timeline = $("timeline"), log = $("log");
  $("run").hidden = false;
  $("connection").hidden = false;
  $("run-id").textContent = run;
  document.title = `${run} · sandtrace`;

  let lastSeq = 0, eventCount = 0, startedAt = null, endedAt = null, stopping = false, over = false, turns = 0, inTurn = false;
  const tools = new Map(), spans = new Map(), approvals = new Map(), streaming = [];
  const usage = { input: 0, output: 0 };
  let cost = null;
  const samples = { cpu: [], memory: [] };
  let stderrShown = 0;

  function add(item) {
    // Who reads further up is not pulled down.
    const atEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 80;
    timeline.append(item);
    if (atEnd) window.scrollTo(0, document.documentElement.scrollHeight);
    return item;
  }
  const note = (text, kind) => add(el("li", `note ${kind ?? ""}`, text));

  // -- what the agent says
  function says(text) {
    const waiting = streaming.shift();
    const block = waiting ?? add(el("li", "says"));
    block.classList.remove("streaming");
    block.textContent = text;
    if (!text.trim()) block.remove();
  }
  function saysMore(piece, isNew) {
    let block = streaming.at(-1);
    if (isNew || !block) {
      block = add(el("li", "says streaming"));
      streaming.push(block);
    }
    block.append(piece);
    if (window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 80) window.scrollTo(0, document.documentElement.scrollHeight);
  }
  function thinks(text) {
    if (!text) return;
    const item = el("li"), details = el("details", "thinks");
    details.append(el("summary", "", "Thinking"), el("div", "", cut(text, SHOWN_CHARS)));
    item.append(details);
    add(item);
  }

  // -- tools: known by their calls, which come by two ways, the agent's lines and the spans
  function tool(id, name) {
    let known = tools.get(id);
    if (!known) {
      const item = el("li"), details = el("details", "tool"), summary = el("summary"), inside = el("div", "inside");
      known = { details, name: el("span", "name", name ?? "Tool"), brief: el("code", "brief"), took: el("span", "took"),
        mark: el("span", "mark"), word: el("span", "unseen"), inside, startedAt: null, state: "called" };
      known.mark.setAttribute("aria-hidden", "true");
      summary.append(known.mark, known.name, known.brief, known.word, known.took);
      details.append(summary, inside);
      item.append(details);
      add(item);
      tools.set(id, known);
      toolState(known, "called");
    }
    if (name) known.name.textContent = name;
    return known;
  }
  const WORDS = { called: ["", "called"], running: ["", "running"], waiting: ["?", "waits for you"], done: ["✓", "done"], failed: ["✕", "failed"] };
  function toolState(known, state) {
    known.state = known.details.dataset.state = state;
    [known.mark.textContent, known.word.textContent] = WORDS[state];
  }
  function part(known, title, value) {
    if (known.inside.querySelector(`[data-part="${title}"]`)) return;
    const block = el("div");
    block.dataset.part = title;
    block.append(el("h3", "", title), el("pre", "", shown(value)));
    known.inside.append(block);
  }
  function toolUse(id, name, input) {
    const known = tool(id, name);
    known.brief.textContent = brief(input);
    part(known, "Input", input);
  }
  function toolResult(id, content, isError) {
    const known = tools.get(id);
    if (!known) return;
    const text = Array.isArray(content) ? content.map((block) => block?.text ?? `[${block?.type ?? "?"}]`).join("\n") : content;
    part(known, isError ? "Error" : "Result", text ?? "");
  }

  // -- questions
  function asked({ id, tool_use_id, tool_name, input }) {
    if (approvals.has(id)) return;
    const item = el("li"), card = el("section", "approval"), row = el("div", "row");
    const title = el("h3", "", `May it use ${tool_name}?`);
    card.setAttribute("aria-label", title.textContent);
    const approve = el("button", "primary", "Approve"), deny = el("button", "danger", "Deny"), reason = el("input"), told = el("p", "problem");
    reason.placeholder = "Why not? The agent reads it (optional)";
    reason.setAttribute("aria-label", "Reason for denying");
    told.hidden = true;
    told.setAttribute("role", "alert");
    row.append(approve, deny, reason);
    card.append(title, el("pre", "", shown(input)), row, told);
    item.append(card);
    add(item);
    const known = tools.get(tool_use_id);
    const approval = { card, buttons: [approve, deny, reason], tool: known, name: tool_name, askedAt: now };
    approvals.set(id, approval);
    if (known) toolState(known, "waiting");
    const answer = async (body) => {
      approval.buttons.forEach((button) => (button.disabled = true));
      problem(told, null);
      try {
        await post(`${base}/approvals/${encodeURIComponent(id)}`, body);
      } catch (error) {
        problem(told, error);
        approval.buttons.forEach((button) => (button.disabled = false));
      }
    };
    approve.addEventListener("click", () => answer({ decision: "approve" }));
    deny.addEventListener("click", () => answer({ decision: "deny", reason: reason.value || "Denied on the page." }));
    reason.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); deny.click(); } });
  }
  function decided({ id, decision, by, reason }) {
    const approval = approvals.get(id);
    if (!approval) return;
    const allowed = decision === "approve" || decision === "allow";
    const waited = approval.askedAt && now ? ` after ${duration(now - approval.askedAt)}` : "";
    const why = !allowed && reason ? `: ${cut(reason, BRIEF_CHARS)}` : "";
    settle(id, `${approval.name} ${allowed ? "approved" : "denied"}${by ? ` by ${by}` : ""}${waited}${why}`);
    if (approval.tool?.state === "waiting") toolState(approval.tool, allowed ? "running" : "failed");
  }
  function settle(id, text) {
    const { card } = approvals.get(id);
    const hadFocus = card.contains(document.activeElement);
    card.classList.add("settled");
    card.replaceChildren(text);
    approvals.delete(id);
    if (hadFocus && !$("message").disabled) $("message").focus();
  }

  // -- the agent's lines, in the dialects that agents print
  function agentLine(line) {
    const isSubagent = Boolean(line.parent_tool_use_id);
    const content = line.message?.content ?? line.content;
    const blocks = Array.isArray(content) ? content : [];
    switch (line.type) {
      case "assistant": case "AssistantMessage":
        for (const block of blocks) {
          const kind = block.type ?? (block.name && block.input ? "tool_use" : block.thinking ? "thinking" : "text");
          if (kind === "tool_use" || kind === "ToolUseBlock") toolUse(block.id, block.name, block.input);
          else if (isSubagent) continue;
          else if (kind === "text" || kind === "TextBlock") says(block.text ?? "");
          else if (kind === "thinking" || kind === "ThinkingBlock") thinks(block.thinking);
        }
        break;
      case "user": case "UserMessage":
        for (const block of blocks) {
          if (block.tool_use_id) toolResult(block.tool_use_id, block.content, block.is_error);
        }
        break;
      case "stream_event": case "StreamEvent": {
        if (isSubagent) break;
        const event = line.event ?? {};
        if (event.type === "content_block_start" && event.content_block?.type === "text") saysMore(event.content_block.text ?? "", true);
        else if (event.type === "content_block_delta" && event.delta?.type === "text_delta") saysMore(event.delta.text, false);
        break;
      }
      case "result": case "ResultMessage":
        streaming.splice(0).forEach((block) => block.classList.remove("streaming"));
        if (line.is_error && line.result) note(cut(String(line.result), SHOWN_CHARS), "warning");
        break;
      case "text": says(line.data?.text ?? ""); break;
      case "thinking": thinks(line.data?.thinking); break;
      case "tool_use": if (line.data) toolUse(line.data.id, line.data.name, line.data.input); break;
      case "tool_result": if (line.data) toolResult(line.data.tool_use_id, line.data.content, line.data.is_error); break;
      case "approval_request": if (line.data) asked(line.data); break;
      case "approval_decision": if (line.data) decided(line.data); break;
      case "error": case "input_error": note(`The agent reports an error: ${cut(String(line.data?.message ?? line.message ?? ""), BRIEF_CHARS)}`, "warning"); break;
    }
  }

  // -- the supervisor's lines
  let now = null;
  function supervisorLine(type, data) {
    switch (type) {
      case "sandtrace.run.started": startedAt = now; break;
      case "sandtrace.span.started": spanStarted(data); break;
      case "sandtrace.span.ended": spanEnded(data); break;
      case "sandtrace.resources": resources(data); break;
      case "sandtrace.output":
        if (data.stream === "stderr" && data.text && stderrShown++ < 200) stderr(cut(data.text, BRIEF_CHARS * 4));
        break;
      case "sandtrace.warning": note(data.message, "warning"); break;
      case "sandtrace.agent.exited": stopping = true; break;
      case "sandtrace.run.finished":
        endedAt = now;
        usage.input = data.usage.input_tokens;
        usage.output = data.usage.output_tokens;
        cost = data.cost?.usd ?? cost;
        outcome(data);
        break;
    }
  }
  // Lines that follow each other stand in one block.
  function stderr(text) {
    let item = timeline.lastElementChild;
    if (!item?.classList.contains("stderr")) {
      item = note(undefined, "stderr");
      item.append(el("pre", "", text));
      item.firstChild.setAttribute("aria-label", "Error output");
    } else {
      item.firstChild.append("\n" + text);
    }
  }
  function spanStarted({ span_id, name, attributes, start_time }) {
    spans.set(span_id, { name, at: Date.parse(start_time) });
    if (name.startsWith("execute_tool")) {
      const id = attributes["gen_ai.tool.call.id"] ?? span_id;
      const known = tool(id, attributes["gen_ai.tool.name"] ?? name.slice("execute_tool ".length));
      known.startedAt = Date.parse(start_time);
      spans.get(span_id).tool = known;
      if (known.state === "called") toolState(known, "running");
    } else if (attributes["sandtrace.turn"] !== undefined && name.startsWith("invoke_agent")) {
      turns = attributes["sandtrace.turn"];
      inTurn = true;
      const item = el("li", "turn");
      item.append(el("b", "", `Turn ${turns}`), el("span"));
      spans.get(span_id).turn = add(item);
      const text = remembered(run)[turns - 1];
      if (text) add(el("li", "you", text));
    }
  }
  function spanEnded({ span_id, name, status, duration_ms, attributes, message }) {
    const span = spans.get(span_id);
    spans.delete(span_id);
    if (name.startsWith("chat")) {
      usage.input += attributes["gen_ai.usage.input_tokens"] ?? 0;
      usage.output += attributes["gen_ai.usage.output_tokens"] ?? 0;
      if (attributes["sandtrace.cost.usd"] !== undefined) cost = (cost ?? 0) + attributes["sandtrace.cost.usd"];
    }
    if (span?.tool) {
      toolState(span.tool, status === "error" ? "failed" : "done");
      span.tool.startedAt = null;
      const peak = attributes["sandtrace.tool.memory_peak_bytes"];
      span.tool.took.textContent = duration(duration_ms) + (peak ? ` · ${bytes(peak)}` : "");
      if (status === "error" && message) span.tool.took.title = message;
    }
    if (span?.turn) {
      inTurn = false;
      const spent = attributes["sandtrace.cost.usd"];
      span.turn.lastChild.textContent = duration(duration_ms) + (spent ? ` · ${dollars(spent)}` : "") + (status === "error" ? " · failed" : "");
    }
  }
  function resources({ sandbox, tree }) {
    push(samples.cpu, sandbox.cpu_utilization);
    push(samples.memory, sandbox.memory_total_bytes ? sandbox.memory_used_bytes / sandbox.memory_total_bytes : 0);
    $("cpu").textContent = `${percent(sandbox.cpu_utilization)} of ${sandbox.cpus} core${sandbox.cpus === 1 ? "" : "s"}`;
    $("memory").textContent = `${bytes(sandbox.memory_used_bytes)} of ${bytes(sandbox.memory_total_bytes)}`;
    if (tree) $("memory").title = `The agent: ${bytes(tree.rss_bytes)} in ${tree.processes} processes`;
    graph($("cpu-graph"), samples.cpu);
    graph($("memory-graph"), samples.memory);
  }
  function push(values, value) {
    values.push(Math.min(1, Math.max(0, value)));
    if (values.length > KEPT_SAMPLES) values.shift();
  }
  function graph(svg, values) {
    const x = (i) => (values.length < 2 ? 240 : (i * 240) / (values.length - 1)), y = (value) => 46 - value * 44;
    const points = values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`);
    if (points.length === 1) points.unshift(`0,${y(values[0]).toFixed(1)}`);
    const shape = (tag, className, path) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      made.setAttribute("class", className);
      made.setAttribute("d", path);
      return made;
    };
    const edge = `M${points.join("L")}`;
    svg.replaceChildren(shape("path", "area", `${edge}L240,48L0,48Z`), shape("path", "edge", edge));
  }

  // -- the end
  function outcome({ outcome: word, failure, duration_ms, lost }) {
    const card = $("outcome");
    if (!card.hidden) return;
    over = true;
    card.hidden = false;
    card.dataset.outcome = word;
    const titles = { success: "It did what it was asked", failure: "It failed", cancelled: "It was cancelled" };
    const title = lost ? "The run was lost" : titles[word] ?? word;
    card.append(el("h2", "", title));
    const facts = [duration_ms !== undefined && duration(duration_ms), `${turns} turn${turns === 1 ? "" : "s"}`,
      `${count(usage.input)} tokens in, ${count(usage.output)} out`, cost !== null && dollars(cost)];
    if (failure) {
      const kind = failure.class + (failure.reason ? `.${failure.reason}` : "");
      card.append(el("p", "why", failure.message));
      const row = el("p", "hint");
      row.append(el("code", "", kind), ` · ${percent(failure.confidence)} sure${failure.recoverable ? " · may work if tried again" : ""}`);
      card.append(row);
      list(card, "Evidence", (failure.evidence ?? []).map(({ source, fact }) => [source, fact]));
      list(card, "Or else", (failure.alternatives ?? []).map((other) =>
        [other.class + (other.reason ? `.${other.reason}` : ""), percent(other.confidence)]));
    }
    card.append(el("p", "hint", facts.filter(Boolean).join(" · ")));
    streaming.splice(0).forEach((block) => block.classList.remove("streaming"));
    for (const id of [...approvals.keys()]) settle(id, `${approvals.get(id).name}: nobody answered`);
    for (const known of tools.values()) if (["running", "called", "waiting"].includes(known.state)) toolState(known, "failed");
    for (const id of ["message", "send", "interrupt", "close", "cancel"]) $(id).disabled = true;
    $("message").placeholder = "The run is over";
    window.scrollTo(0, document.documentElement.scrollHeight);
  }
  function list(card, title, rows) {
    if (!rows.length) return;
    const all = el("ol");
    for (const [source, fact] of rows) {
      const item = el("li");
      item.append(el("code", "", source), el("span", "", cut(fact, SHOWN_CHARS)));
      all.append(item);
    }
    card.append(el("h3", "", title), all);
  }

  // -- what it is doing, in words; and what goes on by itself
  function draw() {
    const running = [...tools.values()].filter((known) => known.state === "running");
    const [words, kind] = over ? [{ success: "Succeeded", failure: "Failed", cancelled: "Cancelled" }[$("outcome").dataset.outcome] ?? "Over", $("outcome").dataset.outcome]
      : stopping ? ["Stopping", "busy"]
      : approvals.size ? ["Waits for your answer", "waiting"]
      : running.length ? [`Runs ${running.length === 1 ? running[0].name.textContent : `${running.length} tools`}`, "busy"]
      : inTurn ? ["Thinks", "busy"]
      : turns ? ["Waits for your message", "waiting"]
      : ["Starting", "busy"];
    // A live region speaks when its text changes, so it is only set when it does.
    if ($("state").textContent !== words) $("state").textContent = words;
    $("state").dataset.state = kind;
    $("tokens-in").textContent = count(usage.input);
    $("tokens-out").textContent = count(usage.output);
    $("cost").textContent = cost === null ? "–" : dollars(cost);
    const interrupt = $("interrupt");
    if (!over) interrupt.disabled = !inTurn;
    tick();
  }
  function tick() {
    if (startedAt) $("elapsed").textContent = duration((endedAt ?? Date.now()) - startedAt);
    for (const known of tools.values()) {
      if (known.startedAt && !over) known.took.textContent = duration(Date.now() - known.startedAt);
    }
  }
  const clock = setInterval(tick, 500);

  // -- the stream
  function connection(state, text) {
    $("connection").dataset.state = state;
    $("connection").textContent = text;
  }
  function take(line) {
    const stamp = line.sandtrace;
    // The server sends nothing twice to one who tells what it has; one who had to begin anew passes it over.
    if (!stamp || stamp.seq <= lastSeq) return;
    lastSeq = stamp.seq;
    now = Date.parse(stamp.time);
    if (!line.type?.startsWith("sandtrace.")) agentLine(line);
    else supervisorLine(line.type, line.data ?? {});
    const item = el("li");
    item.dataset.seq = stamp.seq;
    item.append(el("span", "", stamp.seq), el("span", "", line.type ?? "(no type)"));
    log.append(item);
    if (log.childElementCount > KEPT_LOG) log.firstChild.remove();
    $("event-count").textContent = ++eventCount;
  }
  let drawn = false;
  function drawSoon() {
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(() => { drawn = false; draw(); });
  }
  let source = null;
  // An EventSource does not tell the answer's status, and a run that the server has forgotten stays forgotten.
  async function comeBack() {
    const question = new AbortController();
    const answer = await fetch(`${base}/events`, { signal: question.signal }).catch(() => null);
    question.abort();
    if (answer?.status !== 404) return connect();
    connection("over", "unknown");
    clearInterval(clock);
    note("This server does not know the run: it was restarted, or has forgotten it. The run's journal has its events.", "warning");
  }
  function connect() {
    source = new EventSource(`${base}/events`);
    source.onopen = () => connection("live", "live");
    source.onerror = () => {
      if (over) return;
      connection("lost", "reconnecting");
      // The browser comes back by itself, but for an answer that is no stream: then it gives up.
      if (source.readyState === EventSource.CLOSED) setTimeout(comeBack, 2000);
    };
    source.onmessage = (event) => { take(JSON.parse(event.data)); drawSoon(); };
    source.addEventListener("trace", (event) => {
      const { trace_id } = JSON.parse(event.data);
      $("trace-id").textContent = trace_id;
      $("copy-trace").disabled = false;
    });
    source.addEventListener("gap", (event) => {
      const { after, missing } = JSON.parse(event.data);
      if (after + missing <= lastSeq) return;
      // A fresh stream begins at the first event; those that are shown here are not missing.
      const unseen = after + missing - Math.max(after, lastSeq);
      lastSeq = after + missing;
      note(`${unseen} event${unseen === 1 ? " is" : "s are"} not kept any more; the run's journal has ${unseen === 1 ? "it" : "them"}.`, "warning");
    });
    source.addEventListener("end", (event) => {
      source.close();
      clearInterval(clock);
      outcome(JSON.parse(event.data));
      connection("over", "over");
      drawSoon();
    });
  }
  connect();

  // -- what the person does
  const told = $("composer-problem"), message = $("message");
  async function order(path, body) {
    problem(told, null);
    try {
      await post(base + path, body);
      return true;
    } catch (error) {
      problem(told, error);
      return false;
    }
  }
  $("composer").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = message.value.trim();
    if (!text || $("send").disabled) return;
    $("send").disabled = true;
    remember(run, text);
    if (await order("/messages", { text })) message.value = "";
    else sessionStorage.setItem(run, JSON.stringify(remembered(run).slice(0, -1)));
    if (!over) $("send").disabled = false;
  });
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("composer").requestSubmit();
    }
  });
  $("interrupt").addEventListener("click", () => order("/interrupt"));
  $("close").addEventListener("click", () => order("/close"));
  $("cancel").addEventListener("click", () => order("/cancel"));
  $("copy-trace").addEventListener("click", async () => {
    await navigator.clipboard.writeText($("trace-id").textContent).catch(() => {});
    $("copy-trace").textContent = "Copied";
    setTimeout(() => ($("copy-trace").textContent = "Copy trace id"), 1500);
  });
  draw();
}

let run = location.hash.slice(1);
try {
  run = decodeURIComponent(run);
} catch {
  // It is taken as it stands: no address of this page has a lone %.
}
if (run) follow(run);
else start();
window.addEventListener("hashchange", () => location.reload());
