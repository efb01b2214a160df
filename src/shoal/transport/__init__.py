"""How a request reaches an engine on another node when not by plain TCP: QUIC, RabbitMQ, Kafka."""
