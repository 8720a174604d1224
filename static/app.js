// What htmx leaves to us: the two message regions of the form, and polls that disturb nobody and tell when they fail.
const region = id => document.getElementById(id);
const sent = (e, what) => e.detail.ctx?.sourceElement?.matches?.(what);
let added = 0, failures = 0, reached = new Date(), pressed = false;

const isSelected = element => {
  const selection = getSelection();
  return !selection.isCollapsed && selection.rangeCount && selection.getRangeAt(0).intersectsNode(element);
};
const clock = time => {
  const [day, minutes] = [time.toISOString().slice(0, 10), time.toISOString().slice(11, 16) + ' UTC'];
  return day === new Date().toISOString().slice(0, 10) ? minutes : `${minutes} on ${day}`;
};
for (const type of ['pointerdown', 'pointerup', 'pointercancel'])
  document.addEventListener(type, e => { pressed = type === 'pointerdown' && !!e.target.closest('#board, #city'); });

document.addEventListener('htmx:before:request', e => {
  if (sent(e, '#city-form')) region('problem').textContent = region('status').textContent = '';
  if (!sent(e, '.poll')) return;
  const ctx = e.detail.ctx;
  ctx.begun = Date.now();
  // A hidden page asks nothing. For a second after an add, another process may still have the board from before it.
  ctx.dropped = document.hidden || ctx.begun - added < 1000;
  if (ctx.dropped) e.preventDefault();
});
document.addEventListener('htmx:before:swap', e => {
  const { begun, target, response } = e.detail.ctx;
  if (sent(e, '#city-form') && response.status === 200) added = Date.now();
  // The next poll brings what this one may not swap.
  if (sent(e, '.poll') && (pressed || begun < added || isSelected(target))) e.preventDefault();
});
document.addEventListener('htmx:finally:request', e => {
  const { dropped, response } = e.detail.ctx, status = response?.status;
  if (sent(e, '#city-form')) {
    if (status < 300 || status === 422) return;
    // No response at all, or a proxy's own: neither has a #problem-text.
    region('problem').textContent ||=
      'Could not reach the server. We could not confirm that the city was saved. Check your connection and try again.';
    // On a small screen the region may be out of sight.
    region('problem').scrollIntoView({ block: 'nearest' });
  } else if (sent(e, '#live .poll') && !dropped) {
    const failed = status !== 200 && status !== 204;
    failures = failed ? failures + 1 : 0;
    if (!failed) reached = new Date();
    region('not-live').textContent = failures < 2 ? '' : `Not live since ${clock(reached)}. Trying again.`;
  }
});
