// Leaks ten descriptors a second in one function, among twenty that open and close
// properly: from the first line of its input on, until the next, when it says how many
// it leaked. It ends with its input. With "async" as its argument it opens them on a
// thread of libuv's pool.
'use strict';
const fs = require('fs');

let leaked = 0;
let leaking = false;

function leakDescriptor() {
  if (!leaking) return;
  fs.openSync('/etc/hostname'); // LEAK file
  leaked++;
}

function leakLater() {
  if (!leaking) return;
  fs.open('/etc/hostname', (error) => {
    if (error) throw error;
    leaked++;
  });
}

function honest() {
  for (let n = 0; n < 20; n++) fs.closeSync(fs.openSync('/etc/passwd'));
}

setInterval(honest, 100);
setInterval(process.argv[2] === 'async' ? leakLater : leakDescriptor, 100);

process.stdin.on('data', () => {
  if (leaking) setTimeout(() => console.log(leaked), 50); // what began comes to its end
  leaking = !leaking;
});
process.stdin.on('end', () => process.exit());
console.log('ready');
