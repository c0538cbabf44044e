'use strict';
// Everything that comes from processes is put into the page as text, never as HTML.

const $ = (id) => document.getElementById(id);

function element(tag, options = {}, ...children) {
  const e = document.createElement(tag);
  if (options.class) e.className = options.class;
  if (options.title) e.title = options.title;
  e.append(...children.filter((c) => c !== null && c !== undefined && c !== ''));
  return e;
}

const unknown = '-';

function bytes(n) {
  if (n === null || n === undefined) return unknown;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i === 0 || n >= 100 ? n.toFixed(0) : n.toFixed(1)) + ' ' + units[i];
}
const rate = (n) => (n === null || n === undefined ? unknown : bytes(n) + '/s');
const percent = (r) => (r === null || r === undefined ? unknown : (r * 100).toFixed(r < 0.1 ? 1 : 0) + '%');
const whole = (n) => (n === null || n === undefined ? unknown : n.toLocaleString('en'));
const fixed = (n) => (n === null || n === undefined ? unknown : n.toFixed(2));

function duration(s) {
  if (s === null || s === undefined) return '';
  if (s < 120) return s.toFixed(0) + ' s';
  if (s < 7200) return (s / 60).toFixed(0) + ' min';
  if (s < 172800) return (s / 3600).toFixed(0) + ' h';
  return (s / 86400).toFixed(0) + ' days';
}

// Gauges of the host, with the last five minutes as a line.
const kept = 300;
const history = new Map();

function remember(name, value) {
  const list = history.get(name) || [];
  list.push(value === undefined ? null : value);
  if (list.length > kept) list.shift();
  history.set(name, list);
  return list;
}

function spark(values, top) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${kept - 1} 100`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  const most = top || Math.max(1, ...values.filter((v) => v !== null));
  let part = [];
  const draw = () => {
    if (part.length > 1) {
      const line = document.createElementNS('http://www.w3.org/2000/svg', 'polyline');
      line.setAttribute('points', part.join(' '));
      svg.append(line);
    }
    part = [];
  };
  values.forEach((v, i) => {
    if (v === null) draw(); // what is unknown is a gap
    else part.push(`${kept - values.length + i},${(100 - Math.min(v / most, 1) * 96 - 2).toFixed(1)}`);
  });
  draw();
  return svg;
}

function gauge(name, value, text, detail, top) {
  const values = remember(name, value);
  return element('div', { class: 'gauge' }, element('span', {}, name), element('b', {}, text), element('small', { title: detail }, detail), spark(values, top));
}

const ratio = (a, b) => (a === null || b === null || !b ? null : a / b);
const sum = (a, b) => (a === null || b === null ? null : a + b);

function showHost(s) {
  const h = s.host;
  $('host').textContent = s.system.hostname;
  document.title = s.system.hostname + ' - rmagent';
  $('about').textContent = `${s.system.os}, Linux ${s.system.kernel}, rmagent ${s.system.agent_version} by ${s.system.source}`;
  const list = [
    gauge('CPU', h.cpu_ratio, percent(h.cpu_ratio), `of ${whole(h.cpu_count)}, load ${fixed(h.load1)}`, 1),
    gauge('Memory', ratio(h.memory_used_bytes, h.memory_total_bytes), percent(ratio(h.memory_used_bytes, h.memory_total_bytes)),
      `${bytes(h.memory_used_bytes)} of ${bytes(h.memory_total_bytes)}`, 1),
    gauge('Network', sum(h.net_received_bytes_per_second, h.net_sent_bytes_per_second), rate(sum(h.net_received_bytes_per_second, h.net_sent_bytes_per_second)),
      `${rate(h.net_received_bytes_per_second)} in, ${rate(h.net_sent_bytes_per_second)} out`),
    gauge('Disk', sum(h.disk_read_bytes_per_second, h.disk_written_bytes_per_second), rate(sum(h.disk_read_bytes_per_second, h.disk_written_bytes_per_second)),
      `${rate(h.disk_read_bytes_per_second)} read, ${rate(h.disk_written_bytes_per_second)} written`),
    gauge('Open files', h.files_open, whole(h.files_open), h.files_limit > 1e15 ? 'no limit' : `of ${whole(h.files_limit)}`),
    gauge('Processes', h.processes, whole(h.processes), `${whole(h.threads)} threads of ${whole(h.pid_limit)}`),
  ];
  for (const f of h.filesystems || []) {
    const used = ratio(f.total_bytes === null ? null : f.total_bytes - f.available_bytes, f.total_bytes);
    list.push(gauge(f.path, used, percent(used), `${bytes(f.available_bytes)} left of ${bytes(f.total_bytes)}`, 1));
  }
  for (const g of s.gpus) {
    list.push(gauge(`GPU ${g.index}`, g.utilization_ratio, percent(g.utilization_ratio), `${bytes(g.memory_used_bytes)} of ${bytes(g.memory_total_bytes)} memory`, 1));
  }
  $('gauges').replaceChildren(...list);
}

function showStates(states) {
  const list = states.map((c) => element('li', {}, element('span', { class: 'tag ' + c.state }, c.state), ' ', c.message || `${c.resource} of ${c.target}`,
    c.advice ? element('br') : null, c.advice ? element('small', {}, c.advice) : null));
  $('states').replaceChildren(...(list.length ? list : [element('li', { class: 'quiet' }, 'Everything is within its thresholds.')]));
}

function frameText(f) {
  const name = f.function || `${(f.module || '?').split('/').pop()}+0x${(f.offset || 0).toString(16)}`;
  const place = f.file ? f.file.split('/').pop() + (f.line ? ':' + f.line : '') : (f.module || '').split('/').pop();
  return place ? `${name}  ${place}` : name;
}

function showLeaks(leaks) {
  const list = leaks.map((l) => {
    const left = duration(l.seconds_to_limit);
    const box = element('div', { class: 'leak' }, element('span', { class: 'tag ' + l.verdict }, l.verdict), ` ${l.comm} (pid ${l.pid}): ${whole(l.fd_open)} of ${whole(l.fd_limit)} open, `,
      `${fixed(l.growth_per_second)} more a second`, left ? `, full in ${left}` : '');
    if (l.sites === null) {
      box.append(element('br'), element('small', {}, 'What it holds is only for root and for its own user.'));
    } else if (l.sites.length) {
      const sites = l.sites.slice(0, 3).map((s) => element('li', {}, `${s.held} ${s.type} ${s.target || ''}`,
        s.stack && s.stack.length ? element('pre', {}, s.stack.slice(0, 8).map(frameText).join('\n')) : ''));
      box.append(element('br'), element('small', {}, 'When that was noticed it held:'), element('ol', {}, ...sites));
    }
    return box;
  });
  $('leaks').replaceChildren(...(list.length ? list : [element('p', { class: 'quiet' }, 'Nobody does.')]));
}

// The table of processes.
const columns = [
  { title: 'PID', of: (p) => p.pid, show: (p) => String(p.pid) },
  { title: 'Name', of: (p) => p.comm, show: (p) => p.comm },
  { title: 'CPU', of: (p) => p.cpu_cores, show: (p) => fixed(p.cpu_cores) },
  { title: 'Memory', of: (p) => p.rss_bytes, show: (p) => bytes(p.rss_bytes) },
  { title: 'FDs', of: (p) => p.fd_open, show: (p) => whole(p.fd_open) },
  { title: 'of limit', of: (p) => p.fd_ratio, show: (p) => percent(p.fd_ratio) },
  { title: 'Disk', of: (p) => sum(p.disk_read_bytes_per_second, p.disk_written_bytes_per_second), show: (p) => rate(sum(p.disk_read_bytes_per_second, p.disk_written_bytes_per_second)) },
  { title: 'Network', of: (p) => sum(p.net_received_bytes_per_second, p.net_sent_bytes_per_second), show: (p) => rate(sum(p.net_received_bytes_per_second, p.net_sent_bytes_per_second)) },
  { title: 'Threads', of: (p) => p.threads, show: (p) => whole(p.threads) },
  { title: 'Unit or cgroup', of: (p) => p.unit || p.cgroup || '', show: (p) => p.unit || p.cgroup || '' },
];
const rows = 40;
let sortBy = columns[2];
let descending = true;
let last = [];
let paused = false;

function makeHead() {
  $('columns').replaceChildren(...columns.map((c) => {
    const b = element('button', {}, c.title);
    b.type = 'button';
    b.addEventListener('click', () => {
      descending = sortBy === c ? !descending : typeof c.of(last[0] || {}) !== 'string';
      sortBy = c;
      makeHead();
      showProcesses();
    });
    const th = element('th', {}, b);
    th.scope = 'col';
    if (c === sortBy) th.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
    return th;
  }));
}

function compare(a, b) {
  const x = sortBy.of(a), y = sortBy.of(b);
  if (x === y) return a.pid - b.pid;
  if (x === null || x === undefined) return 1; // what is unknown comes last
  if (y === null || y === undefined) return -1;
  return (x < y ? -1 : 1) * (descending ? -1 : 1);
}

function showProcesses() {
  const words = $('filter').value.toLowerCase().trim();
  const chosen = last.filter((p) => !words || String(p.pid) === words || p.comm.toLowerCase().includes(words) || (p.unit || p.cgroup || '').toLowerCase().includes(words));
  chosen.sort(compare);
  $('processes').replaceChildren(...chosen.slice(0, rows).map((p) => element('tr', {}, ...columns.map((c) => {
    const text = c.show(p);
    return element('td', { title: c === columns[columns.length - 1] ? text : '' }, text);
  }))));
  $('more').textContent = chosen.length > rows ? `${whole(chosen.length - rows)} more` : '';
}

function say(text, bad) {
  $('status').textContent = text;
  $('status').className = bad ? 'bad' : '';
}

async function ask(path) {
  const r = await fetch(path);
  if (!r.ok) throw new Error(r.status === 401 ? 'this dashboard has ended' : `the agent does not answer (${r.status})`);
  return r.json();
}

async function turn() {
  let wait = 1000;
  if (!paused && !document.hidden) {
    try {
      const [system, leaks, processes] = await Promise.all([ask('/v1/system'), ask('/v1/leaks'), ask('/v1/processes')]);
      showHost(system);
      showStates(system.states);
      showLeaks(leaks.leaks);
      last = processes.processes;
      showProcesses();
      wait = Math.max(500, system.interval_seconds * 1000);
      say(new Date(system.time).toLocaleTimeString(), false);
    } catch (e) {
      say(e instanceof TypeError ? 'this dashboard has ended' : e.message, true);
    }
  }
  setTimeout(turn, wait);
}

function listen() {
  const source = new EventSource('/v1/events');
  const show = (kind, text, mark) => {
    $('events').prepend(element('li', {}, element('span', { class: 'tag ' + (mark || 'quiet') }, kind), ' ', element('small', {}, new Date().toLocaleTimeString()), ' ', text));
    while ($('events').children.length > 50) $('events').lastChild.remove();
  };
  source.addEventListener('state', (e) => { const r = JSON.parse(e.data); show(r.state, r.message, r.state); });
  source.addEventListener('leak', (e) => { const r = JSON.parse(e.data); show(r.verdict, `${r.comm} (pid ${r.pid}): ${whole(r.fd_open)} descriptors are open`, r.verdict); });
  source.addEventListener('prune', (e) => { const r = JSON.parse(e.data); show('prune', r.should_prune ? 'work should be taken off this machine' : 'no longer', r.should_prune ? 'warning' : 'normal'); });
  source.addEventListener('oom', (e) => { const r = JSON.parse(e.data); show('oom kill', `${r.comm} (pid ${r.pid}) had ${bytes(r.rss_bytes)}`, 'critical'); });
  source.addEventListener('action', (e) => { const r = JSON.parse(e.data); show('action', JSON.stringify(r), 'info'); });
  source.addEventListener('lost', (e) => show('lost', `${JSON.parse(e.data).events} events were missed`, 'warning'));
}

makeHead();
$('filter').addEventListener('input', showProcesses);
$('pause').addEventListener('click', () => { paused = !paused; $('pause').textContent = paused ? 'Go on' : 'Pause'; });
turn();
listen();
