using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Packets that came before their turn (<see cref="PeerProfile.FirstsAhead"/>), each as long as the longest. Their
/// checksum was verified when they came; nothing else was looked at. Port token held by the caller.
/// </summary>
internal sealed class HeldPackets(int packets, int packetBytes)
{
    private readonly byte[] _bytes = new byte[packets * packetBytes];
    private readonly (uint Psn, int LengthBytes)[] _slots = new (uint, int)[packets]; // length 0: free
    private int _count;

    /// <summary>Keeps a copy. False when there is no room: then it is as if the packet had been lost.</summary>
    /// <param name="psn">Its PSN, ahead of <paramref name="expected"/>.</param>
    /// <param name="packet">All of it.</param>
    /// <param name="expected">What is before that has had its turn.</param>
    public bool TryAdd(uint psn, ReadOnlySpan<byte> packet, uint expected)
    {
        Forget(expected);
        int slot = -1;
        for (int i = 0; i < _slots.Length; i++)
        {
            if (_slots[i].LengthBytes != 0 && _slots[i].Psn == psn)
            {
                return true; // the first one of two
            }

            slot = _slots[i].LengthBytes == 0 ? i : slot;
        }

        if (slot < 0 || packet.Length > packetBytes)
        {
            return false;
        }

        packet.CopyTo(_bytes.AsSpan(slot * packetBytes));
        _slots[slot] = (psn, packet.Length);
        _count++;
        return true;
    }

    /// <summary>The one with that PSN, valid until the next call.</summary>
    public bool TryTake(uint psn, out ReadOnlySpan<byte> packet)
    {
        for (int i = 0; _count > 0 && i < _slots.Length; i++)
        {
            if (_slots[i].LengthBytes != 0 && _slots[i].Psn == psn)
            {
                packet = _bytes.AsSpan(i * packetBytes, _slots[i].LengthBytes);
                _slots[i].LengthBytes = 0;
                _count--;
                return true;
            }
        }

        packet = default;
        return false;
    }

    private void Forget(uint expected)
    {
        for (int i = 0; i < _slots.Length; i++)
        {
            if (_slots[i].LengthBytes != 0 && Psn.Compare(_slots[i].Psn, expected) < 0)
            {
                _slots[i].LengthBytes = 0;
                _count--;
            }
        }
    }
}
