// What htmx does not do: fill the message regions, keep polls from disturbing the visitor, and report failed polls.
const region = id => document.getElementById(id);
const isFrom = (e, selector) => e.detail.ctx?.sourceElement?.matches?.(selector);
let added = -Infinity, failures = 0, reached = new Date();

const isSelected = element => {
  const selection = getSelection();
  return !selection.isCollapsed && selection.rangeCount && selection.getRangeAt(0).intersectsNode(element);
};
const clock = time => {
  const [day, minutes] = [time.toISOString().slice(0, 10), time.toISOString().slice(11, 16) + ' UTC'];
  return day === new Date().toISOString().slice(0, 10) ? minutes : `${minutes} on ${day}`;
};

document.addEventListener('htmx:before:request', e => {
  if (isFrom(e, '#city-form')) region('status').textContent = '';
  if (isFrom(e, '#city-form, #pause')) region('problem').textContent = '';
  if (!isFrom(e, '.poll')) return;
  const ctx = e.detail.ctx;
  ctx.begun = e.timeStamp;
  // A hidden page does not poll. For a second after an add, another process may still have the board without it.
  ctx.dropped = document.hidden || ctx.begun - added < 1000;
  if (ctx.dropped) e.preventDefault();
});
document.addEventListener('htmx:before:swap', e => {
  const { ctx } = e.detail, { begun, target, response } = ctx;
  if (isFrom(e, '#city-form') && response.status === 200) added = e.timeStamp;
  if (!isFrom(e, '.poll')) return;
  // If a swap is prevented, the next poll brings the change.
  ctx.waits = response.status === 200 && isSelected(target);
  if (ctx.waits || begun < added || target.matches(':active')) e.preventDefault();
});
document.addEventListener('htmx:finally:request', e => {
  const { dropped, waits, response } = e.detail.ctx, status = response?.status, failed = !(status < 300);
  if (dropped) return;
  if (failed && status !== 422 && isFrom(e, '#city-form, #pause')) {
    // There is no response, or a proxy sent one without a #problem-text.
    region('problem').textContent ||= 'Could not reach the server. ' +
      (isFrom(e, '#pause') ? '' : 'We could not confirm that the city was saved. ') + 'Check your connection and try again.';
    // On a small screen, the region may be out of view.
    region('problem').scrollIntoView({ block: 'nearest' });
  } else if (isFrom(e, '#live .poll, #pause')) {
    failures = failed ? failures + 1 : 0;
    if (!failed) reached = new Date();
    region('not-live').textContent = failures > 1 ? `Not live since ${clock(reached)}. Trying again.`
      : waits ? 'Changes wait while text is selected.' : '';
  }
});
