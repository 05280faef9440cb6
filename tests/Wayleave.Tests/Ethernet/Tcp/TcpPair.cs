using System.Runtime.InteropServices;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Tcp.Wire;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>Two endpoints over a simulated link; time jumps to the next deadline.</summary>
internal sealed class TcpPair
{
    private const int ChunkBytes = 2048;

    private readonly byte[] _buffer = new byte[1 << 14];

    public TcpPair(
        Choices choices,
        SimulatedLinkOptions link,
        Func<TcpEndpointOptions, TcpEndpointOptions>? options = null,
        bool ipv6 = false,
        int chunks = 256)
    {
        Link = new SimulatedLink<int>(choices, link);
        A = new Side(this, index: 0, choices, options, ipv6, chunks);
        B = new Side(this, index: 1, choices, options, ipv6, chunks);
    }

    public SimulatedLink<int> Link { get; }

    public Side A { get; }

    public Side B { get; }

    public TimeSpan Now { get; private set; }

    /// <summary>
    /// Everything that can happen now happens; then time goes to the next deadline. False when nothing is left.
    /// </summary>
    public bool Step()
    {
        bool moved;
        do
        {
            moved = A.Receive() | B.Receive() | A.Transmit() | B.Transmit();
        }
        while (moved);

        TimeSpan? next = Earliest(Link.NextDeadline, Earliest(A.Endpoint.NextDeadline, B.Endpoint.NextDeadline));
        if (next is not { } at)
        {
            return false;
        }

        Now = at > Now ? at : Now;
        A.Endpoint.HandleTimeout(Now);
        B.Endpoint.HandleTimeout(Now);
        return true;
    }

    private static TimeSpan? Earliest(TimeSpan? left, TimeSpan? right) =>
        left is null ? right : right is null ? left : left < right ? left : right;

    /// <summary>One end.</summary>
    internal sealed class Side : IReceiveRoom
    {
        private readonly TcpPair _pair;
        private readonly int _index;
        private readonly ChunkPool _pool;

        public Side(
            TcpPair pair,
            int index,
            Choices choices,
            Func<TcpEndpointOptions, TcpEndpointOptions>? options,
            bool ipv6,
            int chunks)
        {
            (_pair, _index) = (pair, index);
            _pool = new ChunkPool(ChunkPoolKind.Host, new byte[ChunkBytes * chunks], ChunkBytes);
            TcpEndpointOptions given = new() { SuperPacketBytes = 1, ReceiveBufferBytes = 256 << 10 };
            byte[] key = [.. Enumerable.Range(0, 16).Select(i => (byte)(i + index))];
            Endpoint = new TcpEndpoint(options?.Invoke(given) ?? given, key, choices, this);
            string text = ipv6 ? $"fd00::{index + 1}" : $"10.0.0.{index + 1}";
            Address = IpAddress.TryParse(text, out IpAddress address) ? address : default;
        }

        public TcpEndpoint Endpoint { get; }

        public IpAddress Address { get; }

        public ChunkPool Pool => _pool;

        public long Received { get; private set; }

        public long GetReceiveRoomBytes(int queue) => RoomBytes ?? (long)_pool.FreeChunks * ChunkBytes;

        public long GetReceiveCapacityBytes(int queue) => RoomBytes ?? (long)_pool.ChunkCount * ChunkBytes;

        public object GetReceiveMemory(int queue) => this;

        public long? RoomBytes { get; set; }

        private Side Other => _index == 0 ? _pair.B : _pair.A;

        public bool Receive()
        {
            bool any = false;
            while (_pair.Link.PollReceive(_pair.Now, _index, out _, out ReadOnlyMemory<byte> bytes))
            {
                any = true;
                Handle(bytes.Span);
            }

            return any;
        }

        public bool Transmit()
        {
            bool any = false;
            while (Endpoint.PollTransmit(_pair.Now, out TcpTransmit transmit))
            {
                any = true;
                Send(transmit);
            }

            return any;
        }

        // TCP header, options and payload; the link's source stands for the addresses.
        private void Send(in TcpTransmit transmit)
        {
            Span<byte> buffer = _pair._buffer;
            int headerBytes = TcpHeader.Size + transmit.Options.SizeBytes;
            TcpHeader header = new()
            {
                SourcePort = transmit.Flow.LocalPort,
                DestinationPort = transmit.Flow.RemotePort,
                Sequence = transmit.Sequence,
                Acknowledgement = transmit.Acknowledgement,
                HeaderBytes = headerBytes,
                Flags = transmit.Flags,
                Window = transmit.Window,
            };
            header.WriteTo(buffer);
            Assert.Equal(transmit.Options.SizeBytes, transmit.Options.WriteTo(buffer[TcpHeader.Size..]));
            int at = headerBytes;
            for (int done = 0; done < transmit.PayloadBytes;)
            {
                SendSlice slice = transmit.GetPayload(done);
                slice.Bytes.CopyTo(buffer[(at + done)..]);
                done += slice.LengthBytes;
            }

            at += transmit.PayloadBytes;
            uint sum = InternetChecksum.PseudoHeader(Address, Other.Address, IpProtocol.Tcp, at);
            ushort checksum = InternetChecksum.Finish(InternetChecksum.Add(buffer[..at], sum));
            (header with { Checksum = checksum }).WriteTo(buffer);
            _pair.Link.Send(_pair.Now, _index, 1 - _index, buffer[..at]);
        }

        private void Handle(ReadOnlySpan<byte> bytes)
        {
            uint sum = InternetChecksum.PseudoHeader(Other.Address, Address, IpProtocol.Tcp, bytes.Length);
            if (InternetChecksum.Finish(InternetChecksum.Add(bytes, sum)) != 0
                || !TcpHeader.TryParse(bytes, out TcpHeader header))
            {
                return;
            }

            ReadOnlySpan<byte> payload = bytes[header.HeaderBytes..];
            List<PayloadFragment> fragments = [];
            for (int at = 0; at < payload.Length;)
            {
                if (!_pool.TryAllocate(out int chunk))
                {
                    fragments.ForEach(f => f.Release());
                    return; // as a NIC without memory
                }

                int length = Math.Min(ChunkBytes, payload.Length - at);
                payload.Slice(at, length).CopyTo(_pool.Bytes(chunk, 0, length));
                fragments.Add(new PayloadFragment(_pool, chunk, 0, length));
                at += length;
            }

            Received++;
            Endpoint.HandleSegment(
                _pair.Now,
                new TcpFlow(Address, header.DestinationPort, Other.Address, header.SourcePort),
                new TcpSegment
                {
                    Sequence = header.Sequence,
                    Acknowledgement = header.Acknowledgement,
                    Flags = header.Flags,
                    Window = header.Window,
                    Options = SegmentOptions.Parse(
                        bytes[TcpHeader.Size..header.HeaderBytes], (header.Flags & TcpFlags.Syn) != 0),
                    Payload = CollectionsMarshal.AsSpan(fragments),
                    PayloadBytes = payload.Length,
                });
            fragments.ForEach(f => f.Release());
        }
    }
}
