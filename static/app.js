// What htmx leaves to us: empty both message regions when the form is sent, and speak when the network fails.
const region = id => document.getElementById(id);
const fromForm = e => e.detail.ctx?.sourceElement?.matches?.('#city-form');
document.addEventListener('htmx:before:request', e => {
  if (fromForm(e)) region('problem').textContent = region('status').textContent = '';
});
document.addEventListener('htmx:error', e => {
  if (fromForm(e)) region('problem').textContent =
    'Could not reach the server. We could not confirm that the city was saved. Check your connection and try again.';
});
