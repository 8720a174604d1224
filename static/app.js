// What htmx leaves out: live state, pause, motion, lost requests.
const region = document.getElementById.bind(document);
const isFrom = (e, selector) => e.detail.ctx.sourceElement.matches(selector);
const on = document.addEventListener.bind(document);
const rows = () => [...document.querySelectorAll('#board tr[id]')];
const now = () => new Date().toUTCString();
const clock = time =>
  `${time.slice(17, 22)} UTC${time.slice(5, 16) === now().slice(5, 16) ? '' : ` on ${time.slice(5, 16)}`}`;
const ago = minutes => {
  for (const [unit, length] of [['day', 1440], ['hour', 60], ['minute', 1]])
    if (minutes >= length) return new Intl.RelativeTimeFormat('en').format(-Math.floor(minutes / length), unit);
  return 'just now';
};
let added = -Infinity, failures = 0, reached = now(), old = [], focused, paused, waits, sending;

const showState = () => {
  const time = document.querySelector('#state time');
  if (time) time.textContent = `, ${ago((Date.now() - Date.parse(time.dateTime)) / 60000)}`;
  if (region('pause')) region('not-live').textContent = paused ? `Paused at ${clock(paused)}.`
    : failures > 1 ? `Not live since ${clock(reached)}. Trying again.`
    : waits ? 'Changes wait while text is selected.' : '';
};

on('DOMContentLoaded', () => {
  // Not for others.
  if (location.search.startsWith('?added=')) history.replaceState(null, '', location.pathname);
  const pause = Object.assign(document.createElement('button'), { id: 'pause', textContent: 'Pause' });
  pause.onclick = () => {
    paused = paused ? '' : now();
    pause.textContent = paused ? 'Resume' : 'Pause';
    showState();
    dispatchEvent(new Event('online'));
  };
  document.querySelector('#live:has(.poll) #not-live')?.before(pause);
  showState();
});
on('htmx:before:request', e => {
  const ctx = e.detail.ctx;
  if (isFrom(e, '.card')) {
    region('status')?.replaceChildren();
    sending = setTimeout(() => { e.target.querySelector('#sending').textContent = e.target.dataset.slow }, 5000);
  }
  if (!isFrom(e, '.poll')) return region('problem').replaceChildren();
  ctx.begun = e.timeStamp;
  // For a second after an add, another process may lack it.
  ctx.dropped = document.hidden || paused || ctx.begun - added < 1000;
  if (ctx.dropped) e.preventDefault();
});
on('htmx:before:swap', e => {
  const { begun, target, response } = e.detail.ctx;
  if (isFrom(e, '.poll')) {
    // The next poll brings the change.
    waits = response.status === 200 && !getSelection().isCollapsed && getSelection().containsNode(target, true);
    if (paused || waits || begun < added || target.matches(':active')) e.preventDefault();
  }
  old = rows().map(row => ({ id: row.id, people: row.cells[2].textContent, box: row.getBoundingClientRect() }));
  focused = rows().findIndex(row => row.contains(document.activeElement));
});
on('htmx:after:swap', e => {
  showState();
  if (e.detail.ctx.response.status !== 200) return;
  if (isFrom(e, '#city-form')) {
    added = e.timeStamp;
    region('city-form').reset();
  }
  const board = rows(), changed = [], box = old[focused]?.box;
  const here = box && (board.find(({ id }) => id === old[focused].id) ?? board[focused] ?? board.at(-1));
  here?.querySelector('a').focus({ preventScroll: true });
  if (box?.bottom > 0 && box.top < innerHeight) here?.scrollIntoView({ block: 'nearest' });
  for (const row of board) {
    const was = old.find(({ id }) => id === row.id), moved = was?.box.top - row.getBoundingClientRect().top;
    if (was?.people !== row.cells[2].textContent) changed.push(row);
    if (moved === 0 || matchMedia('(prefers-reduced-motion: reduce)').matches) continue;
    row.animate(was ? { translate: [`0 ${moved}px`, '0'] } : { opacity: [0, 1] }, { duration: 450, easing: 'ease-out' });
  }
  if (!isFrom(e, '.poll') || !changed[0]) return;
  for (const row of changed) row.classList.add('changed');
  region('change').textContent = `${changed[0].querySelector('bdi').textContent} is now number ` +
    changed[0].cells[0].textContent + (changed[1] ? `, and ${changed.length - 1} more changed.` : '.');
});
on('htmx:finally:request', e => {
  const { dropped, response, status } = e.detail.ctx, failed = !(response?.status < 300);
  if (isFrom(e, 'form')) {
    clearTimeout(sending);
    region('sending')?.replaceChildren();
    // Ours, or a new search.
    if (!failed || /409|422|Abort/.test([response?.status, status])) return;
    region('problem').textContent ||= e.target.dataset.unreached;
    region('problem').scrollIntoView({ block: 'nearest' });
  } else if (!dropped) {
    failures = failed ? failures + 1 : 0;
    if (!failed) reached = now();
    showState();
  }
});
