// The cases of the published protocol test suites of Engine.IO 4 and Socket.IO 5, as data. The answers are the gateway's
// instead of the suites' echo servers'. Without `EIO` it speaks Engine.IO 3, as official servers that allow it do. `$` in a query stands for the session that the case opened.
//
//   ['GET', query, status, body]        a request; `body` is a text or a pattern
//   ['POST', query, sent, status, body]
//   ['both', request, request]          two requests at the same time, the second a little later
//   ['socket', name, query]             opens a WebSocket; ['refused', query] expects a refusal
//   ['send', name, text], ['binary', name]
//   ['receives', name, body]            the next message on the WebSocket
//   ['closed', name], ['open', name]    the WebSocket ends, or is still open
//   ['silence', ms]                     the client does nothing for this time
const POLLING = 'EIO=4&transport=polling';
const SOCKET = 'EIO=4&transport=websocket';
const OPEN = /^0\{"sid":"[\w-]{32}","upgrades":\["websocket"\],"pingInterval":1500,"pingTimeout":1000,"maxPayload":1000000\}$/;
const opened = ['GET', POLLING, 200, OPEN];
const error = (code) => new RegExp(`^\\{"code":${code},"message":"[^"]+"\\}$`);
const poll = (body) => ['GET', `${POLLING}&sid=$`, 200, body];
const gone = ['GET', `${POLLING}&sid=$`, 400, error(1)];
const post = (sent, status = 200, body = 'ok') => ['POST', `${POLLING}&sid=$`, sent, status, body];
const socketOpened = [['socket', 'a', SOCKET], ['receives', 'a', /^0\{"sid":"[\w-]{32}","upgrades":\[\],"pingInterval":1500,/]];
const connected = [...socketOpened, ['send', 'a', '40'], ['receives', 'a', /^40\{"sid":"client_\w+"\}$/], ['receives', 'a', /^42\["connected",/]];
const probed = [opened, ['socket', 'a', `${SOCKET}&sid=$`], ['send', 'a', '2probe'], ['receives', 'a', '3probe']];

export const engineIo = {
  'handshake by long polling': [opened],
  'handshake by long polling, EIO missing': [['GET', 'transport=polling', 200, /^\d+:0\{"sid":"[\w-]{32}","upgrades":\["websocket"\]/]],
  'handshake by long polling, EIO unknown': [['GET', 'EIO=abc&transport=polling', 400, error(5)]],
  'handshake by long polling, transport missing': [['GET', 'EIO=4', 400, error(0)]],
  'handshake by long polling, transport unknown': [['GET', 'EIO=4&transport=abc', 400, error(0)]],
  'handshake by POST': [['POST', POLLING, '', 400, error(2)]],
  'handshake by PUT': [['PUT', POLLING, '', 400, error(2)]],
  'handshake by WebSocket': socketOpened,
  'handshake by WebSocket, EIO missing': [['socket', 'a', 'transport=websocket'], ['receives', 'a', /^0\{"sid":"[\w-]{32}","upgrades":\[\]/]],
  'handshake by WebSocket, EIO unknown': [['refused', 'EIO=abc&transport=websocket']],
  'handshake by WebSocket, transport missing': [['refused', 'EIO=4']],
  'handshake by WebSocket, transport unknown': [['refused', 'EIO=4&transport=abc']],
  'a payload with one packet': [opened, post('40'), poll(/^40\{"sid":"client_\w+"\}\x1e42\["connected",\{[^\x1e]+\}\]$/)],
  'a payload with several packets': [opened, post('40\x1e420["subscribe",{"channels":["a"]}]\x1e421["subscribe",{"channels":["b"]}]'),
    poll(/^40[^\x1e]+\x1e42\["connected"[^\x1e]+\x1e42\["subscribed"[^\x1e]+\x1e430[^\x1e]+\x1e42\["subscribed"[^\x1e]+\x1e431[^\x1e]+$/)],
  'a payload with plain text and binary packets': [opened, post('40\x1e451-7["x",{"_placeholder":true,"num":0}]\x1ebAQIDBA=='),
    poll(/\x1e437\[\{"success":false,"error":\{"code":"INVALID_MESSAGE",[^\x1e]+$/)],
  'an invalid packet by POST ends the session': [opened, post('abc', 400, error(3)), gone],
  'two polls at a time end the session': [opened, ['both', poll('1'), ['GET', `${POLLING}&sid=$&t=burst`, 400, error(3)]], gone],
  'a text packet on a WebSocket': connected,
  'a binary packet on a WebSocket': [...connected, ['send', 'a', '451-7["x",{"_placeholder":true,"num":0}]'], ['binary', 'a'],
    ['receives', 'a', /^437\[\{"success":false/], ['send', 'a', '428["subscribe",{"channels":["a"]}]'], ['receives', 'a', /subscribed/], ['receives', 'a', /^438/]],
  'an invalid packet on a WebSocket ends the session': [...socketOpened, ['send', 'a', 'abc'], ['closed', 'a']],
  'heartbeat by long polling': [opened, post('40'), poll(/^40/), poll('2'), post('3'), poll('2'), post('3'), poll('2'), post('3')],
  'silence by long polling ends the session': [opened, post('40'), poll(/^40/), ['silence', 2500], gone],
  'heartbeat on a WebSocket': [...connected, ['receives', 'a', '2'], ['send', 'a', '3'], ['receives', 'a', '2'], ['send', 'a', '3'], ['receives', 'a', '2']],
  'silence on a WebSocket ends the session': [...connected, ['closed', 'a']],
  'closing by long polling': [opened, ['both', poll('6'), post('1')], gone],
  'closing on a WebSocket': [...socketOpened, ['send', 'a', '1'], ['closed', 'a']],
  'upgrade': [...probed, poll('6'), ['send', 'a', '5'], ['send', 'a', '40'], ['receives', 'a', /^40/]],
  'polls are refused after an upgrade': [...probed, ['send', 'a', '5'], ['send', 'a', '40'], ['receives', 'a', /^40/],
    ['GET', `${POLLING}&sid=$`, 400, error(3)], ['open', 'a'], ['receives', 'a', /^42\["connected"/]],
  'a second socket is refused after an upgrade': [...probed, ['send', 'a', '5'], ['send', 'a', '40'], ['receives', 'a', /^40/],
    ['refused', `${SOCKET}&sid=$`], ['open', 'a']],
  // Cases that are not in the suites.
  'two POSTs at a time end the session': [opened, ['both', ['SLOW', `${POLLING}&sid=$`], post('3', 400, error(3))], gone],
  'an unknown session': [['GET', `${POLLING}&sid=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA`, 400, error(1)],
    ['POST', `${POLLING}&sid=nonsense`, '40', 400, error(1)], ['refused', `${SOCKET}&sid=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA`]],
  'other methods of a session': [opened, ['PUT', `${POLLING}&sid=$`, '', 400, error(2)]],
  'a WebSocket transport without an upgrade': [['GET', SOCKET, 400, error(3)]],
  'JSONP': [['GET', `${POLLING}&j=0`, 400, error(3)]],
  'a payload above maxPayload ends the session': [opened, post('x'.repeat(1000001), 413, error(3)), gone],
  'a failed probe leaves the session polling': [...probed, ['send', 'a', '4x'], ['closed', 'a'], post('40'), poll(/^40/)],
};

export const socketIo = {
  'connecting to the main namespace': connected,
  'connecting with a payload': [...socketOpened, ['send', 'a', '40{"x":"123"}'], ['receives', 'a', /^40\{"sid":"client_\w+"\}$/]],
  'an unknown namespace': [...socketOpened, ['send', 'a', '40/random'], ['receives', 'a', '44/random,{"message":"Invalid namespace"}']],
  'an unknown namespace, with a payload': [...socketOpened, ['send', 'a', '40/random,{"token":"x"}'],
    ['receives', 'a', '44/random,{"message":"Invalid namespace"}']],
  'an invalid handshake': [...socketOpened, ['send', 'a', '4abc'], ['closed', 'a']],
  'no handshake': [...socketOpened, ['closed', 'a']],
  'disconnecting from the main namespace leaves the transport': [...connected, ['send', 'a', '41'], ['receives', 'a', '2']],
  'a plain text packet': [...connected, ['send', 'a', '42["get_status"]'], ['receives', 'a', /^42\["status",\{/]],
  'a packet with binary attachments': [...connected, ['send', 'a', '452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'],
    ['binary', 'a'], ['binary', 'a'], ['receives', 'a', /^42\["error",\{"code":"INVALID_MESSAGE"/], ['open', 'a']],
  'a plain text packet with an acknowledgement': [...connected, ['send', 'a', '42456["get_status",1,"2",{"3":[false]}]'],
    ['receives', 'a', /^43456\[\{"success":false/]],
  'a packet with binary attachments and an acknowledgement': [...connected,
    ['send', 'a', '452-789["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'], ['binary', 'a'], ['binary', 'a'],
    ['receives', 'a', /^43789\[\{"success":false/], ['open', 'a']],
  'an unknown packet type ends the connection': [...connected, ['send', 'a', '4abc'], ['receives', 'a', /"PROTOCOL"/], ['closed', 'a']],
  'an invalid payload ends the connection': [...connected, ['send', 'a', '42{}'], ['receives', 'a', /"PROTOCOL"/], ['closed', 'a']],
  'an invalid acknowledgement ends the connection': [...connected, ['send', 'a', '42abc["message-with-ack",1,"2",{"3":[false]}]'],
    ['receives', 'a', /"PROTOCOL"/], ['closed', 'a']],
};
