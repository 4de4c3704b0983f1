-- wrk's requests: one of STRATEGIES strategies at random for each, an order or a read.
-- Arguments after "--": orders|invested, how many strategies. At the end it prints one JSON line.
local method, path, body, strategies

function init(arguments)
  math.randomseed(os.time())
  strategies = tonumber(arguments[2])
  if arguments[1] == "orders" then
    method, path = "POST", "/orders"
    body = '{"strategy_name": "Bench_%03d", "symbol": "SPXL", "side": "BUY", "quantity": 1, "price": 1.0}'
    wrk.headers["content-type"] = "application/json"
  else
    method, path = "GET", "/portfolio/Bench_%03d/invested"
  end
end

function request()
  local strategy = math.random(strategies)
  return wrk.format(method, path:format(strategy), nil, body and body:format(strategy))
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"done": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
