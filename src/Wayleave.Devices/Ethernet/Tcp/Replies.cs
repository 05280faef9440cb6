namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>Answers to those without a connection, in a ring of fixed size.</summary>
internal sealed class Replies(int capacity)
{
    private readonly TcpTransmit[] _ring = new TcpTransmit[capacity];
    private int _head;
    private int _count;

    /// <summary>False when the ring is full.</summary>
    public bool TryAdd(in TcpTransmit reply)
    {
        if (_count == _ring.Length)
        {
            return false;
        }

        _ring[(_head + _count++) % _ring.Length] = reply;
        return true;
    }

    public bool TryTake(out TcpTransmit reply)
    {
        reply = default;
        if (_count == 0)
        {
            return false;
        }

        reply = _ring[_head];
        _head = (_head + 1) % _ring.Length;
        _count--;
        return true;
    }
}
