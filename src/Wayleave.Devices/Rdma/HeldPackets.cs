using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Packets that came before their turn (<see cref="PeerProfile.FirstsAhead"/>), each as long as the longest. Their
/// checksum was verified when they came; nothing else was looked at. Port token held by the caller.
/// </summary>
internal sealed class HeldPackets(int packets, int packetBytes)
{
    private readonly byte[] _bytes = new byte[packets * packetBytes];
    private readonly (uint Psn, int LengthBytes, int FreedBytes)[] _slots = new (uint, int, int)[packets]; // 0: free
    private int _count;
    private uint _earliest; // of them, or before it

    /// <summary>
    /// Keeps a copy, when there is no room in the place of one whose turn comes later. False when it is not kept.
    /// </summary>
    /// <param name="psn">Its PSN, ahead of <paramref name="expected"/>.</param>
    /// <param name="packet">All of it.</param>
    /// <param name="expected">What is before that has had its turn.</param>
    /// <param name="isNew">It is kept, and was not before.</param>
    public bool TryAdd(uint psn, ReadOnlySpan<byte> packet, uint expected, out bool isNew)
    {
        isNew = false;
        Forget(expected);
        int free = -1;
        int latest = 0;
        for (int i = 0; i < _slots.Length; i++)
        {
            if (_slots[i].LengthBytes == 0)
            {
                free = i;
            }
            else if (_slots[i].Psn == psn)
            {
                return true; // the first one of two
            }
            else if (_slots[latest].LengthBytes == 0 || Psn.Compare(_slots[i].Psn, _slots[latest].Psn) > 0)
            {
                latest = i;
            }
        }

        int slot = free >= 0 ? free : latest;
        if (packet.Length > packetBytes || (free < 0 && Psn.Compare(_slots[latest].Psn, psn) < 0))
        {
            return false;
        }

        packet.CopyTo(_bytes.AsSpan(slot * packetBytes));
        _slots[slot] = (psn, packet.Length, 0);
        _earliest = _count == 0 || Psn.Compare(psn, _earliest) < 0 ? psn : _earliest;
        _count += free >= 0 ? 1 : 0;
        isNew = true;
        return true;
    }

    /// <summary>
    /// How many packets come before one that is held has its turn, from that PSN on; what is before that has had its.
    /// </summary>
    public int CountBefore(uint psn)
    {
        if (_count != 0 && Psn.Compare(_earliest, psn) < 0)
        {
            Forget(psn);
        }

        return _count == 0 ? int.MaxValue : Psn.Distance(psn, _earliest);
    }

    /// <summary>The one that is held with that PSN made so much room when it came.</summary>
    public void NoteFreed(uint psn, int bytes)
    {
        for (int i = 0; i < _slots.Length; i++)
        {
            if (_slots[i].LengthBytes != 0 && _slots[i].Psn == psn)
            {
                _slots[i].FreedBytes = bytes;
            }
        }
    }

    /// <summary>The one with that PSN. Those before it have had their turn.</summary>
    /// <param name="psn">Whose turn it is.</param>
    /// <param name="packet">All of it, valid until the next call.</param>
    /// <param name="freedBytes">What <see cref="NoteFreed"/> said of it; 0 when nothing was said.</param>
    public bool TryTake(uint psn, out ReadOnlySpan<byte> packet, out int freedBytes)
    {
        packet = default;
        freedBytes = 0;
        if (CountBefore(psn) != 0)
        {
            return false;
        }

        for (int i = 0; i < _slots.Length; i++)
        {
            if (_slots[i].LengthBytes != 0 && _slots[i].Psn == psn)
            {
                packet = _bytes.AsSpan(i * packetBytes, _slots[i].LengthBytes);
                freedBytes = _slots[i].FreedBytes;
                _slots[i].LengthBytes = 0;
                _count--;
                return true;
            }
        }

        return false;
    }

    /// <summary>Lets go of all of them.</summary>
    public void Clear()
    {
        _count = 0;
        _slots.AsSpan().Clear();
    }

    private void Forget(uint expected)
    {
        int kept = 0;
        for (int i = 0; i < _slots.Length; i++)
        {
            if (_slots[i].LengthBytes == 0)
            {
                continue;
            }

            if (Psn.Compare(_slots[i].Psn, expected) < 0)
            {
                _slots[i].LengthBytes = 0;
            }
            else
            {
                _earliest = kept++ == 0 || Psn.Compare(_slots[i].Psn, _earliest) < 0 ? _slots[i].Psn : _earliest;
            }
        }

        _count = kept;
    }
}
