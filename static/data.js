// "Try it": sends the request of a form, and shows the status and the beginning of the response below it.
const LINES = 20, CHARACTERS = 2000;

// The beginning of the response, and whether there is more; the rest of a download is not read.
const readBeginning = async response => {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ''; ;) {
    const { done, value } = await reader.read();
    if (done) return [text, false];
    text += value;
    const beginning = text.split('\n', LINES).join('\n').slice(0, CHARACTERS);
    if (beginning.length < text.trimEnd().length) {
      reader.cancel();
      return [beginning, true];
    }
  }
};

for (const section of document.querySelectorAll('section.try')) {
  const form = section.querySelector('form'), status = section.querySelector('[role=status]'), shown = section.querySelector('pre');
  const body = form.elements.body;
  let isSending = false;
  form.hidden = false;
  form.addEventListener('submit', async e => {
    e.preventDefault();
    if (isSending) return;
    isSending = true;
    status.textContent = 'Sending…';
    shown.hidden = true;
    try {
      const json = body && { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: body.value };
      const response = await fetch(form.action, { ...json, signal: AbortSignal.timeout(15_000) });
      const [text, isCut] = await readBeginning(response);
      shown.textContent = text;
      shown.hidden = false;
      const type = (response.headers.get('Content-Type') ?? '').split(';')[0];
      status.textContent = `${response.status} ${response.statusText} · ${type}${isCut ? ' · only the beginning' : ''}`;
    } catch {
      status.textContent = 'Could not reach the server. ' +
        (body ? 'We could not confirm that the city was saved. ' : '') + 'Check your connection and try again.';
    }
    isSending = false;
  });
}
