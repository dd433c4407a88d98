# The application of the rivals in Ruby: what release.py is to those in Python, with the same releases, faults, paths and
# headers (but /hold, which no bench of rivals asks for).

require "json"

# The release on the disk: read when this file is loaded, by whichever process loads it.
class Release
  LATER = 3.0 # s
  PIECES = 10

  # The body of /stream. Each piece is written when it is there.
  Pieces = Struct.new(:seconds) do
    def each
      Release::PIECES.times do
        yield "piece\n"
        sleep seconds / Release::PIECES
      end
    end
  end

  def initialize(path)
    release = JSON.parse(File.read(path))
    @name = release["name"]
    @fault = release["fault"]
    sleep release["import_s"]
    raise "this release cannot be loaded" if @fault == "import"
    sleep 600 if @fault == "hang"
    Thread.new { sleep LATER; die } if @fault == "later"
  end

  def die
    Process.kill(:KILL, Process.pid)
  end

  def call(env)
    die if @fault == "first"
    return answer("", 500) if @fault == "500"

    seconds = env["QUERY_STRING"][/\bms=([\d.]+)/, 1].to_f / 1000
    case env["PATH_INFO"]
    when "/stream"
      # With its length: not every server for Ruby sends chunks by itself, and nobody would see that the end is missing.
      return answer(Pieces.new(seconds), 200, PIECES * "piece\n".size)
    when "/slow"
      sleep seconds
    when "/upload"
      size = 0
      while (data = env["rack.input"].read(65_536))
        size += data.bytesize
      end
      return answer("#{size} bytes\n")
    end
    answer("answer\n")
  end

  def answer(body, status = 200, length = body.bytesize)
    # Not once: a master may have loaded this, and forked its workers after that.
    headers = {
      "content-type" => "text/plain", "content-length" => length.to_s, "x-gen" => @name, "x-pid" => Process.pid.to_s
    }
    [status, headers, body.is_a?(String) ? [body] : body]
  end
end

run Release.new(ENV.fetch("BENCH_RELEASE"))
