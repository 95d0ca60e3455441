"""``twistd flowgate``: strings only, so that listing plugins imports nothing of ours."""

from twisted.application.service import ServiceMaker

flowgate = ServiceMaker("Flow-Gate", "flowgate.tap", "A multi-protocol messaging gateway.", "flowgate")
