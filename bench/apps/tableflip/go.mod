module release

go 1.16

require github.com/cloudflare/tableflip v1.2.3
