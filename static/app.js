// What htmx leaves to us: empty both message regions when the form is sent, and speak when no answer of ours comes back.
const region = id => document.getElementById(id);
const fromForm = e => e.detail.ctx?.sourceElement?.matches?.('#city-form');
document.addEventListener('htmx:before:request', e => {
  if (fromForm(e)) region('problem').textContent = region('status').textContent = '';
});
document.addEventListener('htmx:finally:request', e => {
  const status = e.detail.ctx?.response?.status;
  if (!fromForm(e) || status < 300 || status === 422) return;
  // No answer at all, or a proxy's own: neither has a #problem-text.
  region('problem').textContent ||=
    'Could not reach the server. We could not confirm that the city was saved. Check your connection and try again.';
  // On a small screen the region may be out of sight.
  region('problem').scrollIntoView({ block: 'nearest' });
});
